// From the pixels of a picture to the input of the model, equal to qprompt/data/preprocessing.py with Pillow.

const POINT = 22; // fractional bits of Pillow's weights

const FILTERS = {
  bilinear: { reach: 1, weight: (x) => (x < 1 ? 1 - x : 0) },
  bicubic: { reach: 2, weight: cubic },
};

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For each output pixel: the first input pixel that it depends on, and the integer weights from there on.
function neighbours(length, output, filter) {
  const scale = length / output;
  const stretch = Math.max(scale, 1);
  const reach = filter.reach * stretch;
  return Array.from({ length: output }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const count = Math.min(length, Math.trunc(center + reach + 0.5)) - first;
    const weights = new Float64Array(count);
    let sum = 0;
    for (let k = 0; k < count; k++) {
      weights[k] = filter.weight(Math.abs((k + first - center + 0.5) * (1 / stretch)));
      sum += weights[k];
    }
    const whole = (w) => Math.trunc((w / sum) * 2 ** POINT + (w < 0 ? -0.5 : 0.5));
    return { first, weights: Int32Array.from(weights, whole) };
  });
}

// One pass along the columns (step 3 bytes) or the rows of interleaved RGB pixels.
function pass(pixels, width, height, output, filter, vertical) {
  const [length, lines] = vertical ? [height, width] : [width, height];
  if (output === length) return pixels;
  const [along, across] = vertical ? [3 * width, 3] : [3, 3 * width];
  const [alongOut, acrossOut] = vertical ? [3 * width, 3] : [3, 3 * output];
  const result = new Uint8ClampedArray(3 * output * lines);
  neighbours(length, output, filter).forEach(({ first, weights }, index) => {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        let at = first * along + line * across + channel;
        let sum = 1 << (POINT - 1);
        for (let k = 0; k < weights.length; k++, at += along) sum += weights[k] * pixels[at];
        result[index * alongOut + line * acrossOut + channel] = sum >> POINT; // clamped to 0..255
      }
    }
  });
  return result;
}

function resize(pixels, width, height, newWidth, newHeight, interpolation) {
  const filter = FILTERS[interpolation];
  // Pillow 13 does first what removes most pixels.
  if (height > newHeight && height - newHeight > 2 * (width - newWidth)) {
    pixels = pass(pixels, width, height, newHeight, filter, true);
    return pass(pixels, width, newHeight, newWidth, filter, false);
  }
  pixels = pass(pixels, width, height, newWidth, filter, false);
  return pass(pixels, newWidth, height, newHeight, filter, true);
}

// As Python's round: halves go to the even number.
function roundHalfEven(x) {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor % 2) : Math.round(x);
}

// rgba: the bytes of a canvas without transparency. Returns (3, H, W) in fp32.
function preprocess(rgba, width, height, how) {
  const pixels = new Uint8ClampedArray(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    pixels[to++] = rgba[from];
    pixels[to++] = rgba[from + 1];
    pixels[to++] = rgba[from + 2];
  }
  const longer = Math.trunc((how.resize * Math.max(width, height)) / Math.min(width, height));
  const shorter = width <= height ? [longer, how.resize] : [how.resize, longer];
  const [newHeight, newWidth] = Array.isArray(how.resize) ? how.resize : shorter;
  const resized = resize(pixels, width, height, newWidth, newHeight, how.interpolation);
  const [rows, columns] = how.size;
  const top = roundHalfEven((newHeight - rows) / 2);
  const left = roundHalfEven((newWidth - columns) / 2);
  const tensor = new Float32Array(3 * rows * columns);
  for (let channel = 0, to = 0; channel < 3; channel++) {
    const mean = Math.fround(how.mean[channel]);
    const std = Math.fround(how.std[channel]);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, to++) {
        const level = resized[3 * ((top + row) * newWidth + left + column) + channel];
        tensor[to] = Math.fround(Math.fround(level / 255) - mean) / std; // each step rounded to fp32, as in torch
      }
    }
  }
  return tensor;
}
