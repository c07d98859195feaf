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

// Both passes take interleaved RGB pixels.

function resizeRows(pixels, width, height, newWidth, filter) {
  if (newWidth === width) return pixels;
  const result = new Uint8ClampedArray(3 * newWidth * height); // clamps to 0..255
  const half = 1 << (POINT - 1);
  const columns = neighbours(width, newWidth, filter);
  for (let row = 0, to = 0; row < height; row++) {
    for (const { first, weights } of columns) {
      let at = 3 * (row * width + first);
      let red = half;
      let green = half;
      let blue = half;
      for (let k = 0; k < weights.length; k++, at += 3) {
        red += weights[k] * pixels[at];
        green += weights[k] * pixels[at + 1];
        blue += weights[k] * pixels[at + 2];
      }
      result[to++] = red >> POINT;
      result[to++] = green >> POINT;
      result[to++] = blue >> POINT;
    }
  }
  return result;
}

function resizeColumns(pixels, width, height, newHeight, filter) {
  if (newHeight === height) return pixels;
  const length = 3 * width;
  const result = new Uint8ClampedArray(length * newHeight);
  const sums = new Int32Array(length);
  neighbours(height, newHeight, filter).forEach(({ first, weights }, row) => {
    sums.fill(1 << (POINT - 1));
    for (let k = 0; k < weights.length; k++) {
      const start = (first + k) * length;
      for (let i = 0; i < length; i++) sums[i] += weights[k] * pixels[start + i];
    }
    for (let i = 0; i < length; i++) result[row * length + i] = sums[i] >> POINT;
  });
  return result;
}

function resize(pixels, width, height, newWidth, newHeight, interpolation) {
  const filter = FILTERS[interpolation];
  // Pillow 13 does first what removes most pixels.
  if (height > newHeight && height - newHeight > 2 * (width - newWidth)) {
    return resizeRows(resizeColumns(pixels, width, height, newHeight, filter), width, newHeight, newWidth, filter);
  }
  return resizeColumns(resizeRows(pixels, width, height, newWidth, filter), newWidth, height, newHeight, filter);
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
