// Browsers start no worker for a page that was opened as a file. There, its script runs in a hidden frame instead, so
// that search works without a server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((started, failed) => {
        const fill = () => {
          const inside = frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = frame.contentDocument.createElement("script");
          Object.assign(script, { src: address, onload: () => started(inside), onerror: failed });
          frame.contentDocument.body.append(script);
        };
        frame.addEventListener("load", fill, { once: true });
        document.body.append(frame);
      });
    }

    async postMessage(data) {
      (await this.ready).dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}
