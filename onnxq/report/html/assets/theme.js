// Runs before anything is painted: the reader's last choice, else what the system says.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("onnxq-theme"); } catch { /* files may have no storage */ }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = chosen ?? (dark ? "dark" : "light");
})();
