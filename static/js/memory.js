// What the page remembers between visits: language, country, kind of phone. Never a number, a code or a key.
export function kept(name) {
  try { return localStorage.getItem(`hairpin.${name}`); } catch { return null; }
}

export function keep(name, value) {
  try { localStorage.setItem(`hairpin.${name}`, value); } catch { /* a browser that keeps nothing still works */ }
}
