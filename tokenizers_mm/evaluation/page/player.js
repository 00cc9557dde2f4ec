// Player: every version of an item runs in step and all but one are silent, so that switching keeps the position to the sample.

const audio = { context: null, current: null, loop: false };

class Player {
  // versions: [{sound: base64 | null, seconds}], in the order of their panels; notify is called after every change.
  constructor(versions, notify) {
    Object.assign(this, { versions, notify, active: 0, offset: 0, playing: false, busy: false, fault: "", lanes: null, buffers: null });
    this.seconds = Math.max(0, ...versions.map((v) => (v.sound ? v.seconds : 0)));
  }

  get position() {
    if (!this.playing) return this.offset;
    const elapsed = this.offset + audio.context.currentTime - this.started;
    return audio.loop ? elapsed % this.seconds : Math.min(elapsed, this.seconds);
  }

  async play(active = this.active) {
    this.active = active;
    audio.current?.pause();
    audio.current = this;
    if (this.busy) return;
    this.busy = true;
    this.notify();
    try {
      audio.context ??= new AudioContext();
      await audio.context.resume();
      this.buffers ??= await Promise.all(this.versions.map((v) => (v.sound ? decode(v.sound) : null)));
    } catch (error) {
      this.fault = `This browser cannot play the sound (${error.name}).`;
    }
    this.busy = false;
    if (!this.fault && audio.current === this) this.start();
    this.notify();
  }

  start() {
    if (this.offset >= this.seconds - 0.01) this.offset = 0;
    const when = audio.context.currentTime + 0.02;
    this.lanes = this.buffers.map((buffer, i) => {
      if (!buffer) return null;
      const source = new AudioBufferSourceNode(audio.context, { buffer, loop: audio.loop });
      const gain = new GainNode(audio.context, { gain: i === this.active ? 1 : 0 });
      source.connect(gain).connect(audio.context.destination);
      source.start(when, Math.min(this.offset, buffer.duration));
      return { source, gain };
    });
    this.started = when;
    this.playing = true;
    const tick = () => {
      if (!this.playing) return;
      if (!audio.loop && this.position >= this.seconds) this.stop(0);
      this.notify();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  stop(offset) {
    this.playing = false;
    this.lanes?.forEach((lane) => lane?.source.stop());
    this.lanes = null;
    this.offset = Math.max(0, offset);
  }

  pause() {
    if (this.playing) this.stop(this.position);
    this.notify();
  }

  toggle(active = this.active) {
    if (!this.playing) return this.play(active);
    if (active === this.active) return this.pause();
    this.select(active);
  }

  // Another version from the same position on, with a fade too short to hear that avoids a click.
  select(active) {
    this.active = active;
    this.lanes?.forEach((lane, i) => lane?.gain.gain.setTargetAtTime(i === active ? 1 : 0, audio.context.currentTime, 0.004));
    this.notify();
  }

  seek(position) {
    const playing = this.playing;
    this.stop(Math.max(0, Math.min(position, this.seconds)));
    if (playing) this.start();
    this.notify();
  }
}

async function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return audio.context.decodeAudioData(bytes.buffer);
}

function setLoop(loop) {
  const player = audio.current?.playing ? audio.current : null, position = player?.position;
  audio.loop = loop;
  if (player) { player.stop(position); player.start(); }
}
