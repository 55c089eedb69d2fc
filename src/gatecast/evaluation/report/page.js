(() => {
  "use strict";
  const drawn = new Map();
  const coarse = matchMedia("(pointer: coarse)").matches;

  const themed = (value, style) => {
    if (typeof value === "string") {
      return value.startsWith("var(") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => themed(each, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, themed(each, style)]));
  };

  const paint = (place) => {
    const { spec, chosen } = drawn.get(place);
    const { data, layout } = themed({ data: spec.data, layout: spec.layout }, getComputedStyle(document.documentElement));
    const choice = spec.choices[chosen];
    if (choice) {
      data.forEach((trace, k) => { trace.visible = choice.visible[k] ? trace.visible ?? true : false; });
      Object.entries(choice.layout).forEach(([path, value]) => {
        const keys = path.split(".");
        const last = keys.pop();
        keys.reduce((part, key) => part[key], layout)[last] = value;
      });
    }
    if (coarse) layout.dragmode = false;  // a finger on a picture scrolls the page
    const config = { responsive: true, displayModeBar: false };
    return Plotly.react(place, data, layout, config);
  };

  const draw = (place) => {
    if (drawn.has(place)) return Promise.resolve();
    const spec = JSON.parse(document.getElementById(`${place.id}-data`).textContent);
    drawn.set(place, { spec, chosen: 0 });
    if (spec.choices.length > 1) {
      const select = document.createElement("select");
      select.setAttribute("aria-label", `Show of ${place.getAttribute("aria-label")}`);
      spec.choices.forEach((each, k) => select.add(new Option(each.label, k)));
      select.addEventListener("change", () => { drawn.get(place).chosen = Number(select.value); paint(place); });
      place.before(select);
    }
    return paint(place);
  };

  const places = [...document.querySelectorAll(".plot")];
  const next = (k) => {
    if (k < places.length) draw(places[k]).then(() => setTimeout(next, 0, k + 1));  // the page stays alive in between
  };
  next(0);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...drawn.keys()].forEach(paint));
  const printing = (on) => () => {
    document.documentElement.classList.toggle("print", on);
    places.forEach((place) => (drawn.has(place) ? paint(place) : draw(place)));
  };
  addEventListener("beforeprint", printing(true));
  addEventListener("afterprint", printing(false));
})();
