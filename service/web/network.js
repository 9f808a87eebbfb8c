// A network as rows of blocks: expand ratio is width, kernel size is height and shade, depth is how many there are.
// What has no kernel or expand ratio is drawn as a plain list of choices.

const OPERATION = /k(?:ernel)?_?(\d+).*?e(?:xpand)?_?(\d+)/i;

/** Any architecture as rows of cells: {label, cells: [{key, text, kernel, expand, title}]}; or {choices}. */
export function layout(architecture) {
  if (architecture.kernel_sizes && architecture.expand_ratios) {
    return {
      rows: architecture.kernel_sizes.map((kernels, u) => ({
        label: `Unit ${u + 1}`,
        cells: kernels.map((kernel, j) => block(kernel, architecture.expand_ratios[u][j])),
      })),
    };
  }
  if (architecture.stages) {
    return {
      rows: architecture.stages.map((options, s) => ({ label: `Stage ${s + 1}`, cells: options.map(operation) })),
    };
  }
  return { choices: Object.entries(architecture.choices ?? { encoding: architecture.encoding }) };
}

const block = (kernel, expand) => ({
  kernel: Number(kernel),
  expand: Number(expand),
  text: `${kernel}×${kernel}`,
  title: `kernel ${kernel}×${kernel}, expand ratio ${expand}`,
});

function operation(option) {
  const found = OPERATION.exec(option);
  if (found) return block(found[1], found[2]);
  return { kernel: 0, expand: 0, text: String(option), title: String(option) };
}

/** What differs between two architectures, as sentences, with the places to mark. */
export function compare(before, after) {
  const marks = new Set();
  const sentences = [];
  if (!before || before.space !== after.space) return { marks, sentences };
  const [old, now] = [layout(before), layout(after)];
  if (before.resolution !== after.resolution) {
    marks.add("resolution");
    sentences.push(`resolution ${before.resolution} → ${after.resolution}`);
  }
  if (now.choices) {
    const was = new Map(old.choices);
    for (const [name, value] of now.choices) {
      if (was.get(name) === value) continue;
      marks.add(name);
      sentences.push(was.has(name) ? `${name}: ${was.get(name)} → ${value}` : `${name}: ${value}`);
    }
    return { marks, sentences };
  }
  now.rows.forEach((row, r) => {
    const oldCells = old.rows[r]?.cells ?? [];
    for (let c = 0; c < Math.max(row.cells.length, oldCells.length); c++) {
      const [a, b] = [oldCells[c], row.cells[c]];
      if (a?.title === b?.title) continue;
      marks.add(`${r}.${c}`);
      sentences.push(difference(`${row.label.toLowerCase()}, layer ${c + 1}`, a, b));
    }
  });
  return { marks, sentences };
}

function difference(where, a, b) {
  if (!a) return `${where} added (${b.title})`;
  if (!b) return `${where} removed`;
  if (!a.kernel || !b.kernel) return `${where}: ${a.title} → ${b.title}`;
  const parts = [];
  if (a.kernel !== b.kernel) parts.push(`kernel ${a.kernel} → ${b.kernel}`);
  if (a.expand !== b.expand) parts.push(`expand ${a.expand} → ${b.expand}`);
  return `${where}: ${parts.join(", ")}`;
}

/** Draws into `root`, moving what is there already rather than replacing it, so that changes can be followed by eye. */
export function draw(root, architecture, marks, before) {
  const plan = layout(architecture);
  root.classList.toggle("is-list", Boolean(plan.choices));
  if (plan.choices) {
    drawChoices(root, plan.choices, marks);
    return plan;
  }
  // Taken-away blocks stay as dashed outlines where they were.
  const ghosts = before && before.space === architecture.space ? layout(before).rows : [];
  const widest = Math.max(24, ...plan.rows.map((row) => row.cells.reduce((sum, cell) => sum + (cell.expand || 3), 0)));
  const tallest = Math.max(7, ...plan.rows.flatMap((row) => row.cells.map((cell) => cell.kernel)));
  root.style.setProperty("--widest", widest);
  root.style.setProperty("--most", Math.max(...plan.rows.map((row) => row.cells.length), 4));
  const list = child(root, 0, "ul", "rows");
  trim(root, 1);
  plan.rows.forEach((row, r) => {
    const item = child(list, r, "li", "row");
    text(child(item, 0, "span", "row-name"), row.label);
    const blocks = child(item, 1, "ol", "blocks");
    const removed = (ghosts[r]?.cells ?? []).slice(row.cells.length);
    const cells = [...row.cells, ...removed];
    cells.forEach((cell, c) => {
      const isGhost = c >= row.cells.length;
      const box = child(blocks, c, "li", "block");
      box.classList.toggle("is-ghost", isGhost);
      box.classList.toggle("is-changed", !isGhost && marks.has(`${r}.${c}`));
      box.classList.toggle("is-plain", !cell.kernel);
      box.style.setProperty("--expand", cell.expand || 3);
      box.style.setProperty("--kernel", cell.kernel || 3);
      box.style.setProperty("--shade", cell.kernel ? (cell.kernel - 1) / (tallest - 1) : 0);
      box.title = isGhost ? `${cell.title}, removed` : cell.title;
      text(child(box, 0, "span", "block-text"), cell.text).ariaHidden = "true";
      const spoken = isGhost ? `removed: ${cell.title}` : marks.has(`${r}.${c}`) ? `${cell.title}, changed` : cell.title;
      text(child(box, 1, "span", "hidden"), spoken);
    });
    trim(blocks, cells.length);
  });
  trim(list, plan.rows.length);
  return plan;
}

function drawChoices(root, choices, marks) {
  const list = child(root, 0, "dl", "choices");
  trim(root, 1);
  choices.forEach(([name, value], i) => {
    const item = child(list, i, "div", "choice");
    item.classList.toggle("is-changed", marks.has(name));
    text(child(item, 0, "dt", ""), name);
    text(child(item, 1, "dd", ""), String(value));
  });
  trim(list, choices.length);
}

function child(parent, index, tag, className) {
  let node = parent.children[index];
  if (node && (node.localName !== tag || node.dataset.kind !== className)) {
    while (parent.children[index]) parent.lastElementChild.remove();
    node = null;
  }
  if (!node) {
    node = document.createElement(tag);
    if (className) node.className = className;
    node.dataset.kind = className;
    parent.append(node);
  }
  return node;
}

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
  return node;
}

function trim(parent, count) {
  while (parent.children.length > count) parent.lastElementChild.remove();
}
