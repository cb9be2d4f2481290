// Questions in a <dialog>: the safe answer has the focus, Escape is the safe answer.
const at = (id) => document.getElementById(id);

function open(dialog) {
  if (dialog.open) dialog.close();
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener('close', () => done(dialog.returnValue === 'yes'), { once: true }));
}

for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('click', ({ target }) => {
    if (/-(no|cancel)$/.test(target.id)) dialog.close('no');
    if (/-yes$/.test(target.id)) dialog.close('yes');
  });
}

/** Asks in the dialog `name` ("replace" or "confirm"); resolves to true only for the explicit yes. */
export function ask(name, { h, p, yes, no }) {
  at(`${name}-h`).textContent = h;
  at(`${name}-p`).textContent = p;
  at(`${name}-yes`).textContent = yes;
  at(`${name}-no`).textContent = no;
  const answer = open(at(`${name}-dialog`));
  at(`${name}-no`).focus();
  return answer;
}

/** Asks for a name; resolves to the text, or null. */
export async function askName(h, value) {
  const field = at('name-field');
  at('name-h').textContent = h;
  field.value = value;
  at('name-save').value = 'yes';
  const yes = open(at('name-dialog'));
  field.select();
  return (await yes) ? field.value.trim() || null : null;
}

export function closeAll() {
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close('no');
}
