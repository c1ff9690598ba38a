// A model of the folder: its inputs from an image, a text and a sound, and its answers.

import * as ort from './ort/ort.js';
import * as images from './image.js';
import * as sounds from './sound.js';

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL('ort/ort.wasm', document.baseURI).href };

const TENSORS = { bool: 'int32', uint8: 'uint8', int32: 'int32', float32: 'float32' };
const ARRAYS = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array };
const MILLISECONDS = 4; // of a repeat at least, since clocks of browsers are coarse
const REPEATS = 5;

export async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw Error(`${name} is missing in this folder.`);
  return answer;
}

/** A model that page.json lists, ready to answer. */
export async function load({ name, file, about, keys, names, pillow }, encode) {
  const { inputs, interface: known } = await (await fetched(about)).json();
  const bytes = new Uint8Array(await (await fetched(file)).arrayBuffer());
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] });
  const task = known.task.name;
  return { name, bytes: bytes.length, task, taken: Object.values(keys), missing, feeds, answer, run };

  /** What it cannot do without and is not given. */
  function missing(given) {
    const all = Object.values(keys);
    const needed = task === 'retrieval' ? all : all.filter((m) => !(`${m}/present` in inputs));
    return needed.filter((m) => given[m] == null);
  }

  /** Its inputs for {image: RGBA pixels, text, audio: {rate, samples}}; null is absent. */
  function feeds(given) {
    const fed = {};
    for (const [key, [shape, dtype]] of Object.entries(inputs)) {
      const type = TENSORS[dtype];
      const [base, part] = key.split(/\/(mask|present)$/);
      const modality = keys[base] ?? base;
      const value = given[modality];
      const array = new ARRAYS[type](shape.reduce((a, b) => a * b, 1));
      if (part === 'present') array[0] = value == null ? 0 : 1;
      else if (value != null) array.set(part === 'mask' ? encode(value).mask : values(modality, base, value, shape, dtype));
      fed[key.replaceAll('/', '_')] = new ort.Tensor(type, array, [1, ...shape]);
    }
    return fed;
  }

  function values(modality, key, value, shape, dtype) {
    if (modality === 'text') return encode(value).ids;
    if (modality === 'audio') return sounds.fit(value, known.rate, shape[0]);
    const fitted = images.fit(value, shape, pillow);
    if (dtype === 'uint8' || !known.ranges[key]) return fitted;
    return Float32Array.from(fitted, (v) => Math.fround(v / 127.5) - 1);
  }

  async function run(fed) {
    const outputs = await session.run(fed);
    return Object.fromEntries(Object.entries(outputs).map(([k, tensor]) => [k, tensor.data]));
  }

  /** {answers: [[name, score], ...], the best first, ms: of one run}. */
  async function answer(given, timed = true) {
    const fed = feeds(given);
    const began = performance.now();
    const answers = scored(await run(fed));
    const once = Math.max(performance.now() - began, 0.05);
    const times = [];
    const loops = Math.min(100, Math.ceil(MILLISECONDS / once));
    for (let i = 0; timed && i < REPEATS; i++) {
      const start = performance.now();
      for (let k = 0; k < loops; k++) await session.run(fed);
      times.push((performance.now() - start) / loops);
    }
    return { answers, ms: times.sort((a, b) => a - b)[times.length >> 1] };
  }

  function scored(outputs) {
    if (task === 'retrieval') {
      const [a, b] = [outputs.image_embed, outputs.text_embed];
      return [['cosine of image and text', dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))]];
    }
    const logits = Array.from(outputs.logits);
    if (task === 'regression') {
      const value = logits[0] * (known.task.scale ?? 1) + (known.task.offset ?? 0);
      return [[String(Number(value.toPrecision(4))), value]];
    }
    if (task === 'sentiment') {
      return [[names[Math.round(Math.min(3, Math.max(-3, logits[0]))) + 3], logits[0]]];
    }
    const most = Math.max(...logits);
    const total = logits.reduce((sum, x) => sum + Math.exp(x - most), 0);
    const share = (x) => (task === 'multilabel' ? 1 / (1 + Math.exp(-x)) : Math.exp(x - most) / total);
    return logits.map((x, i) => [known.classes[i], share(x)]).sort((a, b) => b[1] - a[1]);
  }
}

function dot(a, b) {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}
