/* Browsers start no worker from a file. Where the site is opened from a folder, this stands in for
   Worker and runs the script in a hidden frame, so that the search works there, too. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      this.inside = this.frame.contentWindow;
      this.inside.postMessage = (data) => this.tell("message", { data });
      const script = this.inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.deliver(data));
      };
      script.onerror = () => this.tell("error", {});
      this.inside.document.documentElement.append(script);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.deliver(data);
    }

    deliver(data) {
      setTimeout(() => this.frame && this.inside.onmessage(new MessageEvent("message", { data })));
    }

    tell(type, content) {
      setTimeout(() => {
        if (!this.frame) return;
        const event = new MessageEvent(type, content);
        if (this["on" + type]) this["on" + type](event);
        this.dispatchEvent(event);
      });
    }

    terminate() {
      if (this.frame) this.frame.remove();
      this.frame = null;
    }
  };
}
