// One WebSocket to the appliance that keeps itself alive. It reports and never decides what is shown.
const PAUSES = [300, 700, 1500, 3000, 5000, 10_000];

export class Link {
  #socket = null;
  #timer = 0;
  #tries = 0;
  #where = null;

  /** `on` has open(), message(event, data), lost(tries) and ended(code); a true answer of ended() means: do not come back. */
  constructor(on) {
    this.on = on;
  }

  open(session, lang) {
    this.#where = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws?session=${session}&lang=${lang}`;
    this.#tries = 0;
    this.#connect();
  }

  close() {
    this.#where = null;
    this.#drop();
  }

  /** Connects at once, whatever the pause. */
  again() {
    if (!this.#where) return;
    this.#tries = 0;
    this.#connect();
  }

  send(event, data = {}) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify({ event, data }));
    return true;
  }

  #drop() {
    clearTimeout(this.#timer);
    const old = this.#socket;
    this.#socket = null;
    old?.close();
  }

  #connect() {
    this.#drop();
    const socket = new WebSocket(this.#where);
    this.#socket = socket;
    const mine = () => this.#socket === socket;
    // A handshake that hangs (a sleeping network) is given up, not waited for.
    this.#timer = setTimeout(() => mine() && socket.readyState === WebSocket.CONNECTING && this.#lose(0), 8000);
    socket.onopen = () => {
      if (!mine()) return;
      clearTimeout(this.#timer);
      this.on.open();
    };
    socket.onmessage = ({ data }) => {
      if (!mine()) return;
      this.#tries = 0;
      let frame;
      try { frame = JSON.parse(data); } catch { return; }
      if (frame && typeof frame.event === 'string' && frame.data) this.on.message(frame.event, frame.data);
    };
    socket.onclose = ({ code }) => mine() && this.#lose(code);
  }

  #lose(code) {
    this.#drop();
    if (!this.#where || this.on.ended(code)) return;
    const pause = PAUSES[Math.min(this.#tries, PAUSES.length - 1)] * (0.8 + Math.random() * 0.4);
    this.#tries += 1;
    this.on.lost(this.#tries);
    if (this.#where && !this.#socket) this.#timer = setTimeout(() => this.#connect(), pause);
  }
}
