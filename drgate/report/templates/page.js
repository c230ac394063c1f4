// Draws the figures that the page holds as JSON; before printing, fits them to paper and unfolds what is folded.
const drawings = JSON.parse(document.getElementById("drawings").textContent);
const PAPER = 660; // CSS pixels between the margins of A4 and of US letter
for (const { name, data, layout } of drawings) {
  Plotly.newPlot(name, data, layout, { displayModeBar: false, responsive: true, showTips: false });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const { name } of drawings) Plotly.relayout(name, { autosize: false, width: PAPER });
});
addEventListener("afterprint", () => {
  for (const { name } of drawings) Plotly.relayout(name, { autosize: true, width: null });
});
