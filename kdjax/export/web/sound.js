// WAV files as the model takes them: samples in [-1, 1] of one channel, at its rate.

const PCM = 1, FLOAT = 3, EXTENSIBLE = 0xfffe;

/** {rate, samples f32} of a WAV file, its channels averaged. */
export function parse(buffer) {
  const view = new DataView(buffer);
  const tag = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < 12 || tag(0) !== 'RIFF' || tag(8) !== 'WAVE') throw Error('Give a WAV file.');
  let form, data;
  for (let at = 12; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (tag(at) === 'fmt ') form = at + 8;
    if (tag(at) === 'data') data = { at: at + 8, size: Math.min(size, buffer.byteLength - at - 8) };
    at += 8 + size + (size % 2);
  }
  if (!form || !data) throw Error('This WAV file holds no sound.');
  let kind = view.getUint16(form, true);
  if (kind === EXTENSIBLE) kind = view.getUint16(form + 24, true);
  const channels = view.getUint16(form + 2, true);
  const rate = view.getUint32(form + 4, true);
  const bits = view.getUint16(form + 14, true);
  const read = {
    [`${PCM} 8`]: (at) => view.getUint8(at) / 128 - 1,
    [`${PCM} 16`]: (at) => view.getInt16(at, true) / 32768,
    [`${PCM} 24`]: (at) => ((view.getUint16(at, true) << 8) | (view.getInt8(at + 2) << 24)) / 2147483648,
    [`${PCM} 32`]: (at) => view.getInt32(at, true) / 2147483648,
    [`${FLOAT} 32`]: (at) => view.getFloat32(at, true),
    [`${FLOAT} 64`]: (at) => view.getFloat64(at, true),
  }[`${kind} ${bits}`];
  if (!read) throw Error(`Give a WAV file of 8, 16, 24 or 32 bits; this one has the format ${kind} of ${bits} bits.`);
  const step = bits / 8;
  const samples = new Float32Array(Math.floor(data.size / (step * channels)));
  for (let i = 0; i < samples.length; i++) {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += read(data.at + (i * channels + c) * step);
    samples[i] = sum / channels;
  }
  return { rate, samples };
}

/** f32 [length]: at another rate, the end cut or filled up with zeros. */
export function fit({ rate, samples }, wanted, length) {
  const fitted = new Float32Array(length);
  fitted.set((wanted && wanted !== rate ? resample(samples, rate, wanted) : samples).subarray(0, length));
  return fitted;
}

/** A polyphase filter with a Kaiser window of 5, as scipy.signal.resample_poly has it. */
export function resample(samples, rate, wanted) {
  const divisor = gcd(rate, wanted);
  const [up, down] = [wanted / divisor, rate / divisor];
  const most = Math.max(up, down);
  const half = 10 * most;
  const taps = Float64Array.from({ length: 2 * half + 1 }, (_, i) => {
    const at = (i - half) / most;
    const sinc = at === 0 ? 1 : Math.sin(Math.PI * at) / (Math.PI * at);
    return sinc * bessel(5 * Math.sqrt(1 - ((i - half) / half) ** 2));
  });
  const total = taps.reduce((a, b) => a + b);
  for (let i = 0; i < taps.length; i++) taps[i] = Math.fround((taps[i] / total) * up);
  const out = new Float32Array(Math.ceil((samples.length * up) / down));
  for (let n = 0; n < out.length; n++) {
    const center = n * down + half; // among the samples with up - 1 zeros between them
    let sum = 0;
    for (let i = Math.max(0, Math.ceil((center - 2 * half) / up)); i <= Math.floor(center / up) && i < samples.length; i++) {
      sum += samples[i] * taps[center - i * up];
    }
    out[n] = sum;
  }
  return out;
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** The modified Bessel function of order 0. */
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}
