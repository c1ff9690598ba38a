// The page: what is given, the answers of each model, and a test of itself (?selftest=1).

import { decode } from './image.js';
import { fetched, load } from './model.js';
import { parse } from './sound.js';
import { tokenizer } from './text.js';

const TOP = 5;
const WAIT = 200; // milliseconds after a letter is typed
const SHARES = ['classification', 'multilabel'];
const $ = (id) => document.getElementById(id);
const READ = { image: decode, audio: async (blob) => parse(await blob.arrayBuffer()), text: (text) => text };

const models = [];
let given = {}; // modality -> what the models read
let encode, page;
let turn = 0;
let last = Promise.resolve(); // a runtime answers one question at a time

const loaded = testing() ? heldBack() : () => {};

start().catch(problem).finally(loaded);

async function start() {
  $('status').textContent = 'loading …';
  page = await (await fetched('page.json')).json();
  document.title = $('title').textContent = page.name;
  $('runtime').textContent = `${page.runtime}, on one thread.`;
  const taken = new Set(page.models.flatMap((m) => Object.values(m.keys)));
  for (const modality of taken) $(`${modality}-field`).hidden = false;
  if (taken.has('text')) encode = tokenizer(await (await fetched('tokenizer.json')).json());
  for (const about of page.models) models.push(card(await load(about, encode)));
  $('status').textContent = [...taken].join(' and ') + (taken.size > 1 ? '; each can be left out' : '');
  if (models.some((m) => m.task === 'retrieval')) $('status').textContent = [...taken].join(' and ');
  listen();
  page.examples.forEach(button);
  $('examples-field').hidden = !page.examples.length;
  if (testing()) await selftest();
  const first = Number(new URLSearchParams(location.search).get('example') ?? 0);
  if (first in page.examples) await show(first);
}

function testing() {
  return new URLSearchParams(location.search).has('selftest');
}

/** Keeps the page from being loaded, which is when `chromium --dump-dom` reads it, until a function is called. */
function heldBack() {
  const frame = document.body.appendChild(node('iframe'));
  frame.hidden = true;
  frame.contentDocument.open();
  return () => frame.contentDocument.close();
}

/** The card of a model, with its place for answers. */
function card(model) {
  const shown = node('div', 'card');
  const [time, size] = [node('strong', '', '–'), node('strong', '', bytes(model.bytes))];
  const numbers = node('div', 'numbers');
  for (const [value, name] of [[time, 'a question'], [size, 'to download']]) {
    const one = node('div', 'faint');
    one.append(value, name);
    numbers.append(one);
  }
  const list = node('ol');
  shown.append(node('h2', '', model.name), numbers, list);
  $('models').append(shown);
  return { ...model, list, time };
}

function listen() {
  for (const modality of ['image', 'audio']) {
    const drop = $(`${modality}-drop`);
    $(modality).addEventListener('change', (e) => e.target.files[0] && give({ [modality]: e.target.files[0] }));
    for (const name of ['dragenter', 'dragover']) drop.addEventListener(name, () => drop.classList.add('over'));
    for (const name of ['dragleave', 'drop']) drop.addEventListener(name, () => drop.classList.remove('over'));
  }
  for (const modality of ['image', 'audio', 'text']) {
    $(`${modality}-clear`).addEventListener('click', () => give({ [modality]: null }));
  }
  document.addEventListener('dragover', (e) => e.preventDefault());
  document.addEventListener('drop', (e) => {
    e.preventDefault();
    file(e.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (e) => e.clipboardData.files[0] && file(e.clipboardData.files[0]));
  let timer;
  $('text').addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => give({ text: $('text').value.trim() || null }, false), WAIT);
  });
}

/** A file that was dropped anywhere on the page. */
function file(blob) {
  const modality = !blob ? '' : blob.type.startsWith('image/') ? 'image' : /wav/.test(blob.type + blob.name) ? 'audio' : '';
  if (!modality || $(`${modality}-field`).hidden) problem(Error('This page takes no such file.'));
  else give({ [modality]: blob });
}

function button(example, i) {
  const shown = node('button');
  shown.setAttribute('aria-pressed', false);
  if (example.image) shown.append(Object.assign(node('img'), { src: example.image, alt: '' }));
  const words = example.text ?? (example.image ? '' : example.audio ? `sound ${i + 1}` : '');
  shown.append(node('span', '', words || `image ${i + 1}`));
  shown.addEventListener('click', () => show(i));
  $('examples').append(shown);
}

async function files(example) {
  const blob = async (name) => name && (await fetched(name)).blob();
  return { image: (await blob(example.image)) ?? null, audio: (await blob(example.audio)) ?? null, text: example.text || null };
}

async function show(i) {
  const example = page.examples[i];
  await give(await files(example).catch(problem) ?? {}, true, example.label && `label: ${example.label}`);
  [...$('examples').children].forEach((b, k) => b.setAttribute('aria-pressed', k === i));
}

/** Takes files and text in the place of those before, and answers. */
async function give(changed, written = true, truth = '') {
  const mine = ++turn;
  $('problem').hidden = true;
  try {
    for (const [modality, value] of Object.entries(changed)) {
      const read = value == null ? null : await READ[modality](value);
      if (mine !== turn) return;
      given = { ...given, [modality]: read };
      if (modality === 'text') written && ($('text').value = value ?? '');
      else media(modality, value, read);
    }
    $('truth').textContent = truth;
    [...$('examples').children].forEach((b) => b.setAttribute('aria-pressed', false));
    words();
    last = last.then(() => answer(mine)).catch(problem);
    await last;
  } catch (e) {
    problem(Error(`This cannot be read: ${e.message}`));
  }
}

function media(modality, blob, read) {
  const shown = $(`${modality}-shown`);
  URL.revokeObjectURL(shown.src);
  $(modality).value = '';
  shown.hidden = !blob;
  if (blob) shown.src = URL.createObjectURL(blob);
  else shown.removeAttribute('src');
  if (modality !== 'image') return;
  $('image-hint').hidden = Boolean(blob);
  $('image-drop').classList.toggle('pixels', Boolean(read) && read.height < 220);
}

/** Says which words are not in the vocabulary. */
function words() {
  const unknown = given.text && encode ? encode(given.text).unknown : [];
  $('unknown').hidden = !unknown.length;
  $('unknown').textContent = `not in the vocabulary: ${unknown.join(', ')}; the answer may be a guess`;
}

async function answer(mine) {
  for (const model of models) {
    if (mine !== turn) return;
    const missing = model.missing(given);
    if (missing.length || model.taken.every((m) => given[m] == null)) {
      model.list.replaceChildren(node('li', 'faint', `give ${(missing.length ? missing : model.taken).join(' or ')}`));
      model.time.textContent = '–';
      continue;
    }
    const { answers, ms } = await model.answer(given);
    if (mine !== turn) return;
    model.list.replaceChildren(...answers.slice(0, TOP).map(([name, score]) => row(model.task, name, score)));
    model.time.textContent = `${ms < 10 ? ms.toPrecision(2) : Math.round(ms)} ms`;
  }
}

function row(task, name, score) {
  const shares = SHARES.includes(task);
  const [item, words] = [node('li'), node('div', 'row')];
  words.append(node('span', '', name), node('span', '', shares ? `${(100 * score).toFixed(1)} %` : task === 'regression' ? '' : score.toFixed(3)));
  item.append(words);
  if (shares) {
    const [bar, part] = [node('div', 'bar'), node('div')];
    part.style.width = `${100 * score}%`;
    bar.append(part);
    item.append(bar);
  }
  return item;
}

/** Writes the answers to all examples, and a checksum of each input, as JSON into the page. */
async function selftest() {
  const results = [];
  for (const example of page.examples) {
    const read = {};
    for (const [modality, value] of Object.entries(await files(example))) {
      read[modality] = value == null ? null : await READ[modality](value);
    }
    const one = {};
    for (const model of models) {
      const sums = Object.entries(model.feeds(read)).map(([k, tensor]) => [k, crc32(tensor.data)]);
      one[model.name] = { ...(await model.answer(read)), inputs: Object.fromEntries(sums) };
    }
    results.push(one);
  }
  $('selftest').textContent = JSON.stringify(results);
}

function crc32(array) {
  let sum = -1;
  for (const byte of new Uint8Array(array.buffer, array.byteOffset, array.byteLength)) {
    sum ^= byte;
    for (let k = 0; k < 8; k++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

function problem(e) {
  $('problem').textContent = e.message;
  $('problem').hidden = false;
  if ($('status').textContent === 'loading …') $('status').textContent = '';
  if (testing()) $('selftest').textContent = JSON.stringify({ problem: e.message });
}

function node(tag, kind = '', text = '') {
  return Object.assign(document.createElement(tag), { className: kind, textContent: text });
}

function bytes(n) {
  return n < 1e6 ? `${(n / 1e3).toPrecision(3)} kB` : `${(n / 1e6).toPrecision(3)} MB`;
}
