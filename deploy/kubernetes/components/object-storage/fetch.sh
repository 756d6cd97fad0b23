# Fetches the archive ARCHIVE of a release, checks that it is the one that was meant, and unpacks it to MODELS/release.
# Run by the init container of deploy/kubernetes/components/object-storage; tests run it as well.
set -eu
cd "$MODELS"
rm -rf release release.part release.tar # of an attempt before this one
rclone copyto "store:$ARCHIVE" release.tar
echo "$SHA256  release.tar" | sha256sum -c -
mkdir release.part
tar -xf release.tar -C release.part
mv release.part release
rm release.tar
