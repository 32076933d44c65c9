// From packets to pixels: runs of labels, margins, colours.

// The palette of DAVIS: the bits of the id, dealt to red, green and blue from the highest bit down.
export const palette = Array.from({ length: 256 }, (_, id) => {
  const colour = [0, 0, 0];
  for (let j = 0; j < 8; j++) for (let c = 0; c < 3; c++) colour[c] |= ((id >> (3 * j + c)) & 1) << (7 - j);
  return colour;
});
// The same, bright enough for text and marks on dark ground.
export const bright = palette.map((c, id) => (id ? `rgb(${c.map((v) => Math.min(v + 96, 255)).join()})` : "#f4f6fa"));

export function labelsOf(body, size) {
  const count = new DataView(body).getUint32(0, true);
  const ends = new Uint32Array(body, 4, count);
  const values = new Uint8Array(body, 4 + 4 * count, count);
  const out = new Uint8Array(size);
  for (let i = 0, at = 0; i < count; at = ends[i++]) if (values[i]) out.fill(values[i], at, ends[i]);
  return out;
}

// Each object in its colour, with a bright line around it.
export function paintLabels(labels, width, height, opacity, hidden) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const inner = new Uint32Array(256);
  const edge = new Uint32Array(256);
  const word = (c, a) => ((a << 24) | (c[2] << 16) | (c[1] << 8) | c[0]) >>> 0;
  for (let i = 1; i < 255; i++) {
    if (hidden.has(i)) continue;
    const c = palette[i];
    inner[i] = word(c.map((v) => Math.min(v + 40, 255)), Math.round(255 * opacity));
    edge[i] = word(c.map((v) => Math.min(v + 110, 255)), Math.round(255 * Math.min(1, opacity * 1.8)));
  }
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const label = labels[i];
      if (!label) continue;
      const inside =
        (x === 0 || labels[i - 1] === label) && (x === width - 1 || labels[i + 1] === label) &&
        (y === 0 || labels[i - width] === label) && (y === height - 1 || labels[i + width] === label);
      pixels[i] = inside ? inner[label] : edge[label];
    }
  }
  return image;
}

// From unsure (warm, opaque) to sure (clear).
export function paintMargins(body, [rows, columns], opacity) {
  const image = new ImageData(columns, rows);
  const values = new Uint8Array(body);
  for (let i = 0; i < rows * columns; i++) {
    const doubt = Math.pow(1 - Math.min(values[i] / 160, 1), 1.5);
    image.data.set([240, 150 * (1 - doubt) + 70, 60, Math.round(255 * Math.min(1, opacity * 1.5) * doubt)], 4 * i);
  }
  return image;
}

export function paintColours(body, [rows, columns], opacity) {
  const image = new ImageData(columns, rows);
  const values = new Uint8Array(body);
  const alpha = Math.round(255 * Math.min(1, 0.25 + opacity * 1.1));
  for (let i = 0; i < rows * columns; i++) {
    image.data.set([values[3 * i], values[3 * i + 1], values[3 * i + 2], alpha], 4 * i);
  }
  return image;
}

const kept = new Map();
export function canvasOf(image, name) {
  let canvas = kept.get(name);
  if (!canvas || canvas.width !== image.width || canvas.height !== image.height) {
    canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    kept.set(name, canvas);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
