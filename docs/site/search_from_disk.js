/* Browsers start no Worker from disk: there, the search's script runs in a hidden frame instead. */
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(address) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      inside.document.open()
      inside.document.write("<!doctype html><body></body>")
      inside.document.close()
      inside.postMessage = data => this.onmessage?.(new MessageEvent("message", { data }))
      this.loaded = new Promise((resolve, reject) => {
        const script = inside.document.createElement("script")
        script.src = new URL(address, location.href).href
        script.onload = () => resolve(inside)
        script.onerror = reject
        inside.document.body.appendChild(script)
      })
      this.loaded.catch(error => this.onerror?.(error))
    }
    postMessage(data) {
      this.loaded.then(inside => inside.onmessage(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
