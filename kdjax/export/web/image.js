// Images as the model takes them: Pillow's bicubic resize of each channel, to the digit.

const BITS = 22; // of a weight, as in Pillow for pixels of 8 bits
const SUPPORT = 2;

/** RGBA pixels of a file, upright, over white, without any change of colours. */
export async function decode(blob) {
  const options = { colorSpaceConversion: 'none', premultiplyAlpha: 'none', imageOrientation: 'from-image' };
  const bitmap = await createImageBitmap(blob, options);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext('2d', { willReadFrequently: true, colorSpace: 'srgb' });
  context.fillStyle = '#fff';
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return { data, width, height };
}

/** u8 [H * W * C] of RGBA pixels, in the size and the channels of a model, as that version of Pillow has it. */
export function fit({ data, width, height }, [rows, columns, channels], pillow) {
  const planes = [0, 1, 2].map((c) => {
    const plane = new Uint8Array(width * height);
    for (let i = 0; i < plane.length; i++) plane[i] = data[4 * i + c];
    return resize(plane, width, height, columns, rows, pillow);
  });
  const fitted = new Uint8Array(rows * columns * channels);
  for (let i = 0; i < rows * columns; i++) {
    if (channels === 1) fitted[i] = Math.floor((planes[0][i] + planes[1][i] + planes[2][i]) / 3);
    else for (let c = 0; c < 3; c++) fitted[3 * i + c] = planes[c][i];
  }
  return fitted;
}

/** Pillow resizes along one axis, rounds to bytes, and then along the other; tall images first in height since 13. */
function resize(plane, width, height, columns, rows, pillow) {
  const narrow = (x, lines) => (columns === width ? x : pass(x, lines, width, columns));
  const flat = (x, size) => (rows === height ? x : transpose(pass(transpose(x, height, size), size, height, rows), size, rows));
  const tall = pillow >= 13 && height > rows && height - rows > 2 * (width - columns);
  return tall ? narrow(flat(plane, width), rows) : flat(narrow(plane, height), columns);
}

function transpose(image, rows, columns) {
  const turned = new Uint8Array(image.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = image[i * columns + j];
  return turned;
}

/** Each of `lines` rows of `size` pixels to `wanted` pixels. */
function pass(image, lines, size, wanted) {
  const weights = filter(size, wanted);
  const out = new Uint8Array(lines * wanted);
  for (let y = 0; y < lines; y++) {
    for (let x = 0; x < wanted; x++) {
      const { first, kernel } = weights[x];
      const from = y * size + first;
      let sum = 1 << (BITS - 1);
      for (let k = 0; k < kernel.length; k++) sum += image[from + k] * kernel[k];
      out[y * wanted + x] = Math.min(255, Math.max(0, sum >> BITS));
    }
  }
  return out;
}

/** The first pixel and the whole-number weights of each pixel of the result. */
function filter(size, wanted) {
  const scale = size / wanted;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  const inverse = 1 / stretch;
  return Array.from({ length: wanted }, (_, x) => {
    const center = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(size, Math.trunc(center + support + 0.5));
    const real = [];
    let total = 0;
    for (let i = first; i < last; i++) {
      const weight = bicubic((i - center + 0.5) * inverse);
      real.push(weight);
      total += weight;
    }
    const kernel = real.map((w) => {
      const share = total === 0 ? w : w / total;
      return Math.trunc((share < 0 ? -0.5 : 0.5) + share * (1 << BITS));
    });
    return { first, kernel };
  });
}

function bicubic(at) {
  const a = -0.5;
  const x = Math.abs(at);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
