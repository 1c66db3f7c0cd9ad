// Charts, and the sign that says whether the page is live. Everything else is HTML sent by the server.
(() => {
  const charts = {};
  const colour = (i) => getComputedStyle(document.documentElement).getPropertyValue(`--v${i % 6}`).trim();
  const ink = () => getComputedStyle(document.body).color;

  function draw(kind, data) {
    const names = Object.keys(data[kind]);
    if (!names.length) return;
    const columns = [data.times, ...names.map((name) => data[kind][name])];
    const host = document.getElementById(`chart-${kind}`);
    const known = charts[kind];
    if (known && known.names.join() === names.join()) return known.plot.setData(columns);
    if (known) known.plot.destroy();
    const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, size: 46 };
    const clock = (_, times) => times.map((t) => new Date(t * 1000).toISOString().slice(11, 19));
    charts[kind] = {
      names,
      plot: new uPlot({
        width: host.clientWidth, height: 180, cursor: { y: false }, legend: { live: false },
        series: [{}, ...names.map((name, i) => ({ label: name, stroke: colour(i), width: 2, spanGaps: true }))],
        axes: [{ ...axis, values: clock, space: 90, size: 28 }, axis],
      }, columns, host),
    };
  }

  function redraw() {
    const element = document.getElementById("series");
    if (!element) return;
    const data = JSON.parse(element.textContent);
    if (data.times.length) for (const kind of ["accuracy", "latency"]) draw(kind, data);
  }

  let last = Date.now();
  new MutationObserver(() => { last = Date.now(); redraw(); })
    .observe(document.getElementById("live"), { childList: true, subtree: true, characterData: true });
  setInterval(() => {
    const pulse = document.getElementById("pulse");
    const lost = Date.now() - last > 8000;
    pulse.classList.toggle("lost", lost);
    pulse.textContent = lost ? "no news: reload or check the service" : "live";
  }, 1000);
  addEventListener("resize", () => {
    for (const kind of Object.keys(charts)) {
      charts[kind].plot.setSize({ width: document.getElementById(`chart-${kind}`).clientWidth, height: 180 });
    }
  });
  redraw();
})();
