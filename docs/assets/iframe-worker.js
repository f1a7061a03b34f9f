// Browsers start no workers for a page that is opened from a disk: there the search runs in a hidden frame, behind a worker's interface.
"use strict";

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.document.open(); // an empty document that no later load of the frame replaces
      inside.document.close();
      const load = (script) =>
        new Promise((resolve, reject) => {
          const element = inside.document.createElement("script");
          Object.assign(element, { src: script, onload: resolve, onerror: () => reject(new Error(`cannot load ${script}`)) });
          (inside.document.body ?? inside.document.documentElement ?? inside.document).append(element);
        });
      inside.postMessage = (data) => this.answer(structuredClone(data));
      inside.importScripts = (...scripts) => scripts.reduce((before, script) => before.then(() => load(script)), Promise.resolve());
      this.ready = load(address);
      this.ready.catch((error) => this.dispatchEvent(new ErrorEvent("error", { error, message: error.message })));
    }

    answer(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    }

    postMessage(data) {
      const { contentWindow } = this.frame;
      this.ready.then(() => contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
