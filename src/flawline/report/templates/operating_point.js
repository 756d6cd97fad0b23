(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("operating-point").textContent);
  const at = (id) => document.getElementById(id);
  const say = (id, text) => { if (at(id)) at(id).textContent = text; };
  const percent = (share) => `${Number((100 * share).toPrecision(3))}%`;
  const score = (value) => (value === null ? "not known" : `${Number(value.toPrecision(4))}`);
  for (const part of document.querySelectorAll(".scripted")) part.hidden = false;

  const showBudget = () => {
    const step = data.steps[Number(at("budget").value)];
    say("budget-text", percent(step.budget));
    say("budget-found", step.found);
    say("budget-missed", data.defects - step.found);
    say("budget-alarmed", step.alarmed);
    say("budget-threshold", score(step.threshold));
    say("budget-located", step.located);
    const line = at("chosen-line");
    line.toggleAttribute("hidden", step.x === null);
    if (step.x !== null) for (const end of ["x1", "x2"]) line.setAttribute(end, step.x);
  };

  const showCost = () => {
    const ratio = at("cost").valueAsNumber, defective = at("defective").valueAsNumber / 100;
    if (!(ratio >= 0 && defective >= 0 && defective <= 1)) {
      say("cost-answer", "Give a cost of at least 0, and from 0 to 100 defective pictures.");
      return;
    }
    const cost = (point) =>
      ratio * defective * (1 - point.found / data.defects) + (1 - defective) * point.alarmed / data.normals;
    const best = data.hull.reduce((least, point) => (cost(point) < cost(least) ? point : least));
    const budget = best.budget === null ? "nothing is called" : `a budget of ${percent(best.budget)}`;
    say("cost-answer",
      `Cheapest: threshold ${score(best.threshold)} (${budget}). ${best.found} of ${data.defects} defects found, ` +
      `${data.defects - best.found} missed; ${best.alarmed} of ${data.normals} good pictures alarm. ` +
      `1,000 pictures cost as much as ${(1000 * cost(best)).toFixed(1)} false alarms.`);
  };

  at("budget").addEventListener("input", showBudget);
  for (const id of ["cost", "defective"]) at(id).addEventListener("input", showCost);
  showBudget();
  showCost();
})();
