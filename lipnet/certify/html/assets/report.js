"use strict";
// Texts from the data enter the page only by textContent or setAttribute, so they never become markup.
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);

  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  // The curve: the slider, the pointer or the arrow keys choose the radius to read.
  const curve = find("curve"), slider = find("radius"), cursor = find("cursor");
  const [end, left, right, width] = ["end", "left", "right", "width"].map((name) => Number(curve.dataset[name]));

  const shareAbove = ({ radii, n }, radius) => {
    let low = 0, high = radii.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (radii[middle] > radius) high = middle; else low = middle + 1;
    }
    return (radii.length - low) / n;
  };

  const readCurve = () => {
    const part = slider.value / slider.max, radius = end * part, x = left + (right - left) * part;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    const lines = data.curves.map((each) => {
      const share = `${(100 * shareAbove(each, radius)).toFixed(2)} %`;
      return data.curves.length > 1 ? `${each.name}: ${share}` : `${share} certified`;
    });
    const place = `radius ${radius.toFixed(3)} = ${(255 * radius).toFixed(1)}/255`;
    find("readout").textContent = lines.length > 1 ? `${place}\n${lines.join("\n")}` : `${place}: ${lines[0]}`;
    slider.setAttribute("aria-valuetext", place);
  };

  slider.addEventListener("input", readCurve);
  curve.addEventListener("pointermove", (event) => {
    const box = curve.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * width;
    slider.value = (slider.max * (x - left)) / (right - left);
    readCurve();
  });
  readCurve();

  // Tables: the button in a heading sorts by its column, numbers in descending order first.
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const heading = button.parentElement, headings = [...heading.parentElement.children];
      const place = headings.indexOf(heading), before = heading.getAttribute("aria-sort");
      const first = place === 0 ? "ascending" : "descending", second = place === 0 ? "descending" : "ascending";
      const order = before === first ? second : first;
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const body = heading.closest("table").tBodies[0];
      const value = (row) => Number(row.children[place].dataset.value);
      const sign = order === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((one, other) => sign * (value(one) - value(other))));
    });
  }

  if (!data.pictures) return;

  // Pictures: each sheet is decoded when its first tile is shown.
  const urls = new Map();
  const sheetUrl = (kind, number) => {
    const id = `${kind}-${number}`;
    if (!urls.has(id)) {
      const bytes = Uint8Array.from(atob(find(id).textContent), (letter) => letter.charCodeAt(0));
      urls.set(id, URL.createObjectURL(new Blob([bytes], { type: data.pictures[kind].type })));
    }
    return urls.get(id);
  };

  const picture = (kind, index, size) => {
    const { columns, perSheet, width: w, height: h, pitch } = data.pictures[kind];
    const longest = Math.max(w, h), scale = longest <= size / 2 ? Math.floor(size / longest) : size / longest;
    const place = index % perSheet, tile = make("div", undefined, "sprite"), style = tile.style;
    style.width = `${w * scale}px`;
    style.height = `${h * scale}px`;
    style.backgroundImage = `url("${sheetUrl(kind, Math.floor(index / perSheet))}")`;
    style.backgroundSize = `${columns * pitch[0] * scale}px auto`;
    style.backgroundPosition =
      `${-(place % columns) * pitch[0] * scale}px ${-Math.floor(place / columns) * pitch[1] * scale}px`;
    style.imageRendering = scale >= 2 ? "pixelated" : "auto";
    return tile;
  };

  // The gallery: an order, a class, and as many images as were asked for.
  const PAGE = 60;
  const radius = data.radius.map(Number), everything = radius.map((_, index) => index);
  const isCorrect = (index) => data.label[index] === data.prediction[index];
  const className = (number) => data.classes[number] ?? String(number);
  // Cut off digits instead of rounding: a certified radius must never look larger than it is.
  const cut = (text, decimals) => text.slice(0, text.indexOf(".") + 1 + decimals);
  const flip = (index) => (data.attack && index < data.attack.distance.length ? data.attack.distance[index] : null);
  const orders = {
    surest: () => everything.filter(isCorrect).sort((one, other) => radius[other] - radius[one]),
    unsure: () => everything.filter(isCorrect).sort((one, other) => radius[one] - radius[other]),
    wrong: () => everything.filter((index) => !isCorrect(index)).sort((one, other) => radius[other] - radius[one]),
    file: () => everything,
    flipped: () => everything.filter((i) => flip(i) !== null).sort((one, other) => flip(one) - flip(other)),
  };
  let chosen = [], shown = 0;

  const tileOf = (position) => {
    const index = chosen[position], correct = isCorrect(index);
    const tile = make("button", undefined, correct ? "tile" : "tile mistake");
    const verdict = correct ? className(data.label[index])
      : `${className(data.label[index])} \u2192 ${className(data.prediction[index])}`;
    const size = cut(data.radius[index], 3);
    tile.type = "button";
    tile.append(picture("images", index, 72), make("span", verdict, "verdict"), make("span", `radius ${size}`, "radius"));
    tile.setAttribute("aria-label", `Image ${data.idx[index]}: ${correct ? "correct, " : "wrong, label to prediction "}` +
      `${verdict}, radius ${size}`);
    tile.addEventListener("click", () => openViewer(position));
    return tile;
  };

  const showMore = () => {
    const next = Math.min(shown + PAGE, chosen.length), tiles = [];
    for (let position = shown; position < next; position += 1) tiles.push(tileOf(position));
    find("tiles").append(...tiles);
    shown = next;
    find("more").hidden = shown === chosen.length;
    find("count").textContent = `${shown} of ${chosen.length} images`;
    return tiles[0];
  };

  const refill = () => {
    const wanted = find("class").value;
    chosen = orders[find("order").value]().filter((index) => wanted === "" || data.label[index] === Number(wanted));
    shown = 0;
    find("tiles").replaceChildren();
    showMore();
  };

  // The viewer: one enlarged image, and its changed version if an attack found one.
  const viewer = find("viewer");
  let current = 0;

  const enlarged = (kind, index, size, caption) => {
    const figure = make("figure"), image = picture(kind, index, size);
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", caption);
    figure.append(image, make("figcaption", caption));
    return figure;
  };

  const fact = (name, value) => {
    const entry = make("div");
    entry.append(make("dt", name), make("dd", value));
    return entry;
  };

  const show = (position) => {
    current = position;
    const index = chosen[position], distance = flip(index), facts = [];
    const narrow = window.innerWidth < 560, three = narrow ? (window.innerWidth - 110) / 2 : 212;
    const room = distance === null ? Math.min(window.innerWidth - 80, 320) : three;
    find("viewer-title").textContent = `Image ${data.idx[index]}`;
    facts.push(fact("prediction", className(data.prediction[index])), fact("label", className(data.label[index])));
    facts.push(fact("verdict", isCorrect(index) ? "correct" : "wrong"));
    facts.push(fact("certified radius", radius[index] > 0
      ? `${data.radius[index]}: no image within this L2 distance has another prediction` : "none"));
    const images = [enlarged("images", index, room, "certified image")];
    if (distance !== null) {
      const changed = className(data.attack.prediction[index]), gain = data.attack.gain[index];
      images.push(enlarged("perturbed", index, room, `perturbed: ${changed}`));
      images.push(enlarged("difference", index, room, `difference, x ${gain.toPrecision(3)}`));
      const ratio = radius[index] > 0 ? `, ${(distance / radius[index]).toFixed(2)} times the certified radius` : "";
      facts.push(fact("nearest change found", `${changed} at distance ${distance.toPrecision(6)}${ratio}`));
    } else if (data.attack && index < data.attack.distance.length) {
      facts.push(fact("attack", "found no other prediction"));
    }
    find("viewer-images").replaceChildren(...images);
    find("viewer-facts").replaceChildren(...facts);
    find("previous").disabled = position === 0;
    find("next").disabled = position === chosen.length - 1;
  };

  const openViewer = (position) => {
    show(position);
    viewer.showModal();
  };

  const step = (by) => {
    const position = current + by;
    if (position >= 0 && position < chosen.length) show(position);
  };

  find("close").addEventListener("click", () => viewer.close());
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  find("more").addEventListener("click", () => showMore().focus());
  find("order").addEventListener("change", refill);
  find("class").addEventListener("change", refill);
  // The sheets come after this script, so that figures and charts appear first.
  document.addEventListener("DOMContentLoaded", refill);
})();
