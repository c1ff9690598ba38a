// Texts as ids: the steps of a tokenizer.json of words (WordLevel) or of pieces of words (WordPiece).

const SPACE = /\p{White_Space}/u;
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/u;
const CHINESE = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];

/** `encode(text) -> {ids, mask, unknown}` of a tokenizer.json: ids and mask padded, the unknown words. */
export function tokenizer(about) {
  const vocabulary = new Map(Object.entries(about.model.vocab));
  const added = new Map(about.added_tokens.map((t) => [t.content, t.id]));
  const [before, after] = around(about.post_processor);
  const unknownId = vocabulary.get(about.model.unk_token) ?? added.get(about.model.unk_token);

  function encode(text) {
    const ids = [];
    const unknown = [];
    for (const part of apart(text, added)) {
      if (added.has(part)) {
        ids.push(added.get(part));
        continue;
      }
      for (const word of words(normal(part, about.normalizer), about.pre_tokenizer)) {
        const found = about.model.type === 'WordPiece' ? pieces(word) : [vocabulary.get(word) ?? unknownId];
        if (found.includes(unknownId) && !unknown.includes(word)) unknown.push(word);
        ids.push(...found.filter((id) => id !== undefined));
      }
    }
    return { ...padded(ids), unknown };
  }

  function pieces(word) {
    const { continuing_subword_prefix: prefix, max_input_chars_per_word: most } = about.model;
    const letters = [...word];
    const found = [];
    if (letters.length > most) return [unknownId];
    for (let start = 0; start < letters.length; ) {
      let end = letters.length;
      let id;
      for (; end > start; end--) {
        id = vocabulary.get((start ? prefix : '') + letters.slice(start, end).join(''));
        if (id !== undefined) break;
      }
      if (id === undefined) return [unknownId];
      found.push(id);
      start = end;
    }
    return found;
  }

  function padded(ids) {
    const { truncation, padding } = about;
    const room = Math.max(0, truncation.max_length - before.length - after.length);
    let kept = ids.length > room ? (truncation.direction === 'Left' ? ids.slice(ids.length - room) : ids.slice(0, room)) : ids;
    kept = [...before, ...kept, ...after];
    const missing = Array(Math.max(0, padding.strategy.Fixed - kept.length));
    const [filling, zeros, ones] = [missing.fill(padding.pad_id), missing.slice().fill(0), kept.map(() => 1)];
    return padding.direction === 'Left'
      ? { ids: [...filling, ...kept], mask: [...zeros, ...ones] }
      : { ids: [...kept, ...filling], mask: [...ones, ...zeros] };
  }

  return encode;
}

/** The ids before and after a text. */
function around(post) {
  if (!post) return [[], []];
  if (post.type === 'Sequence') {
    return post.processors.map(around).reduce(([a, b], [c, d]) => [[...c, ...a], [...b, ...d]], [[], []]);
  }
  if (post.type === 'BertProcessing') return [[post.cls[1]], [post.sep[1]]];
  const sides = [[], []];
  let side = 0;
  for (const step of post.single) {
    if (step.Sequence) side = 1;
    else sides[side].push(...post.special_tokens[step.SpecialToken.id].ids);
  }
  return sides;
}

/** A text split at the tokens that are never taken apart. */
function apart(text, added) {
  if (!added.size) return [text];
  const longest = [...added.keys()].sort((a, b) => b.length - a.length);
  const escaped = longest.map((t) => t.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return text.split(new RegExp(`(${escaped.join('|')})`, 'u')).filter((part) => part !== '');
}

function normal(text, step) {
  if (!step) return text;
  if (step.type === 'Sequence') return step.normalizers.reduce(normal, text);
  if (step.type === 'Lowercase') return lower(text);
  if (step.type === 'StripAccents') return text.replace(/\p{Mn}/gu, '');
  if (step.type !== 'BertNormalizer') return text.normalize(step.type);
  if (step.clean_text) {
    text = [...text].filter((c) => /[\t\n\r]/.test(c) || !/[\0\ufffd\p{Cc}\p{Cf}\p{Co}]/u.test(c))
      .map((c) => (SPACE.test(c) ? ' ' : c)).join('');
  }
  if (step.handle_chinese_chars) {
    const chinese = (c) => CHINESE.some(([low, high]) => low <= c.codePointAt(0) && c.codePointAt(0) <= high);
    text = [...text].map((c) => (chinese(c) ? ` ${c} ` : c)).join('');
  }
  if (step.strip_accents ?? step.lowercase) text = text.normalize('NFD').replace(/\p{Mn}/gu, '');
  return step.lowercase ? lower(text) : text;
}

/** Each character by itself: a final sigma is one as any other. */
function lower(text) {
  return [...text].map((c) => c.toLowerCase()).join('');
}

function words(text, step) {
  if (step.type === 'Sequence') {
    return step.pretokenizers.reduce((parts, one) => parts.flatMap((part) => words(part, one)), [text]);
  }
  if (step.type === 'WhitespaceSplit') return text.split(/\p{White_Space}+/u).filter(Boolean);
  if (step.type === 'Whitespace') return text.match(/[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d\p{White_Space}]+/gu) ?? [];
  if (step.type === 'Split') return text.split(new RegExp(`(${step.pattern.Regex})`, 'u')).filter(Boolean);
  return text.split(/\p{White_Space}+/u).flatMap((word) => word.split(new RegExp(`(${PUNCTUATION.source})`, 'u'))).filter(Boolean);
}
