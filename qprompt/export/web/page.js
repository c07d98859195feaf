// Loads the model from the files beside this page, and classifies the pictures that are dropped, chosen or pasted.

const config = JSON.parse(document.getElementById("config").textContent);
const byId = (id) => document.getElementById(id);
const [status, progress, results] = ["status", "progress", "results"].map(byId);

// Files beside the page are scripts that call this with base64: a page that was opened from a disk cannot fetch.
let received;
globalThis.qpromptPart = (base64) => {
  const text = atob(base64);
  received = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) received[i] = text.charCodeAt(i);
};

function loadPart(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = name;
    script.onload = () => (script.remove(), resolve(received));
    script.onerror = () => reject(new Error(`${name} is missing beside this page.`));
    document.head.append(script);
  });
}

async function load() {
  const files = { runtime: [], wasm: [], model: [] };
  const names = Object.keys(files).flatMap((kind) => config.files[kind].map((name) => [kind, name]));
  for (const [index, [kind, name]] of names.entries()) {
    files[kind].push(await loadPart(name));
    progress.value = (index + 1) / (names.length + 1);
  }
  const whole = (kind) => new Blob(files[kind].splice(0), { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(whole("runtime")));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await whole("wasm").arrayBuffer();
  const model = new Uint8Array(await whole("model").arrayBuffer());
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return async (tensor) => {
    const image = new ort.Tensor("float32", tensor, [1, 3, ...config.preprocessing.size]);
    return (await session.run({ image })).probabilities.data;
  };
}

// The pixels as a viewer shows them: turned as the camera says, on white where they are transparent.
async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { rgba: context.getImageData(0, 0, width, height).data, width, height };
}

function element(tag, className, ...children) {
  const made = Object.assign(document.createElement(tag), { className });
  made.append(...children);
  return made;
}

function card(file, ...children) {
  const title = element("h2", "", file.name || "Pasted picture");
  const made = element("li", "card", element("div", "facts", title, ...children));
  results.prepend(made);
  return made;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}%`;
}

function show(file, probabilities) {
  const ranking = Array.from(probabilities, (probability, index) => ({ probability, name: config.classnames[index] }));
  ranking.sort((a, b) => b.probability - a.probability);
  const rows = ranking.slice(0, config.top).map(({ name, probability }) => {
    const bar = element("span", "bar");
    bar.style.width = percent(probability);
    const row = element(
      "li",
      "class",
      element("span", "name", name),
      element("span", "percent", percent(probability)),
      element("span", "track", bar),
    );
    Object.assign(row.dataset, { name, probability });
    return row;
  });
  const picture = Object.assign(document.createElement("img"), { alt: "", src: URL.createObjectURL(file) });
  picture.onload = () => URL.revokeObjectURL(picture.src);
  card(file, element("ol", "classes", ...rows)).prepend(picture);
  return ranking[0];
}

const queue = [];
let running = false;
const ready = load();

async function classify(files) {
  queue.push(...files);
  if (running) return;
  running = true;
  try {
    const probabilitiesOf = await ready;
    let said = "";
    for (let done = 1; queue.length; done++) {
      const file = queue.shift();
      status.textContent = `Picture ${done} of ${done + queue.length}`;
      await new Promise((painted) => setTimeout(painted, 20));
      try {
        const { rgba, width, height } = await pixelsOf(file);
        const best = show(file, await probabilitiesOf(preprocess(rgba, width, height, config.preprocessing)));
        said = `${file.name || "Picture"}: ${best.name}, ${percent(best.probability)}`;
      } catch (error) {
        card(file, element("p", "error", "This browser cannot read it as a picture."));
        said = `${file.name} cannot be read`;
        console.warn(file.name, error);
      }
    }
    status.textContent = said;
  } catch {
    queue.length = 0; // the model could not be loaded, which the status says
  } finally {
    running = false;
  }
}

ready.then(
  () => {
    progress.remove();
    status.textContent = "Ready";
  },
  (error) => {
    progress.remove();
    status.textContent = `The model cannot be loaded. ${error.message}`;
    document.body.classList.add("failed");
  },
);

const drop = byId("drop");
const files = byId("files");
files.addEventListener("change", () => {
  classify(files.files);
  files.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => classify(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) addEventListener(kind, () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  classify(event.dataTransfer.files);
});
