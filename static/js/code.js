// The pairing code, its clock and the QR beside it. The clock starts at receipt and runs on performance.now(), never on the wall's time.
import { app, left, now } from './state.js';
import { t, time } from './i18n.js';

const at = (id) => document.getElementById(id);
const SPOKEN = [60, 30, 10];
const SVG = 'http://www.w3.org/2000/svg';
const SHAPES = ['g', 'path', 'rect'];
const MARKS = ['d', 'fill', 'x', 'y', 'width', 'height', 'viewBox', 'transform', 'shape-rendering'];

let shownCode = '';
let shownSeconds = -1;
let shownQr = null;

export const spoken = (code) => code.split('-').map((group) => [...group].join(', ')).join('; ');

/** Draws the code's letters; an empty text takes them off the page. */
export function drawCode(code) {
  const box = at('code');
  box.setAttribute('aria-label', code && t('code.spoken', { code: spoken(code) }));
  if (code === shownCode) return;
  shownCode = code;
  shownSeconds = -1;
  box.dataset.code = code;
  box.replaceChildren(...code.split('-').filter(Boolean).map((group) => {
    const part = document.createElement('span');
    part.append(...[...group].map((letter) => Object.assign(document.createElement('b'), { textContent: letter })));
    return part;
  }));
}

/** Moves the clock; returns the seconds to say aloud, if this moment is one of them. */
export function tickCode(say) {
  const seconds = left(app.code.until);
  at('arc').setAttribute('stroke-dashoffset', 100 - Math.min(100, (app.code.until - now()) / (app.code.total * 10)));
  if (seconds === shownSeconds) return;
  const before = shownSeconds;
  shownSeconds = seconds;
  at('countdown').textContent = seconds;
  at('countdown-unit').textContent = t('code.left', { n: seconds });
  at('code-live').classList.toggle('late', seconds <= 30);
  const mark = SPOKEN.find((limit) => before > limit && seconds <= limit);
  if (mark && seconds) say(t('code.left.spoken', { n: seconds }));
}

/** Words beside the clock again, after the language changed; also the hour for paper. */
export function wordCode() {
  const seconds = left(app.code.until);
  at('countdown-unit').textContent = t('code.left', { n: seconds });
  at('valid-until').textContent = t('code.until', { time: time(Date.now() + seconds * 1000) });
}

/** Shows the server's QR. Only plain shapes are taken over, whatever the text holds. */
export function drawQr(text) {
  if (text === shownQr) return Boolean(at('qr').firstChild);
  shownQr = text;
  const root = text && new DOMParser().parseFromString(text, 'image/svg+xml').documentElement;
  const good = root?.namespaceURI === SVG && root.localName === 'svg';
  at('qr').replaceChildren(...(good ? [picture(root)] : []));
  return good;
}

function picture(root) {
  const svg = copy(root);
  if (!svg.hasAttribute('viewBox')) svg.setAttribute('viewBox', `0 0 ${parseFloat(root.getAttribute('width'))} ${parseFloat(root.getAttribute('height'))}`);
  svg.removeAttribute('width');
  svg.removeAttribute('height');
  svg.setAttribute('aria-hidden', 'true');
  return svg;
}

function copy(from) {
  const to = document.createElementNS(SVG, from.localName);
  for (const name of MARKS) {
    const value = from.getAttribute(name);
    if (value !== null && !/url\(/i.test(value)) to.setAttribute(name, value);
  }
  for (const child of from.children) {
    if (child.namespaceURI === SVG && SHAPES.includes(child.localName)) to.append(copy(child));
  }
  return to;
}

/** Puts the code on the clipboard, also where the page is plain HTTP and the browser offers no clipboard. */
export async function copyCode() {
  const text = app.code.text.replace('-', '');
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = Object.assign(document.createElement('textarea'), { value: text, className: 'unseen', readOnly: true });
    const before = document.activeElement;
    document.body.append(field);
    field.select();
    const done = document.execCommand('copy');
    field.remove();
    before?.focus();
    return done;
  }
}
