// Puts the page together, by what it is of.
startTheme();
startCopying();
startDetail();
startSearchKey();
if (PAGE.kind === "comparison") startComparison(PAGE.runs[0], PAGE.runs[1]);
else if (PAGE.runs.length) startRun(PAGE.runs[0]);
else {
  if (PAGE.sensitivity) sensitivityPanel(PAGE.sensitivity);
  if (PAGE.evaluation) evaluationPanel(PAGE.evaluation);
}
startTabs();
document.documentElement.dataset.ready = "true";
