// What stands before the tables: what the board is, how to read, submit and cite, and the filters.
"use strict";
const SUBMIT = `counterfact evaluate --model MODEL --dataset DATASET --editor EDITOR
counterfact leaderboard submit RUN --out submission     # run.json and records.jsonl.gz
counterfact leaderboard check submission                # against the board's references.json`;
const ROME = `@inproceedings{meng2022locating,
  title = {Locating and Editing Factual Associations in {GPT}},
  author = {Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2022}, url = {https://arxiv.org/abs/2202.05262}
}`;
const cite = () =>
  `@software{counterfact_toolkit,
  title = {counterfact-toolkit: building, editing and ranking on {CounterFact}},
  version = {${data.about.version}}, year = {${(data.about.newest || "").slice(0, 4)}}
}
${ROME}`;

function lead(all) {
  const used = [...new Set(data.groups.flatMap((group) => group.rows.filter((row) => row.id).map((row) => row.editor)))]
    .filter((name) => data.editors[name])
    .sort();
  return [
    make(
      "p",
      { class: "lead" },
      "Knowledge editing changes single facts in a language model. This board ranks editors by whether the new fact takes hold (efficacy), carries over to other wordings (paraphrase), and leaves other facts alone (neighborhood).",
    ),
    make(
      "p",
      { class: "note" },
      `${
        count(data.about.runs, "run") + (data.about.newest ? `, the newest of ${data.about.newest}` : "")
      }. Every score is recomputed from its records, with its 95 % interval; failed and missing records count as failures. After `,
      out("https://arxiv.org/abs/2202.05262", "Meng et al. 2022"),
      ".",
    ),
    make(
      "div",
      { class: "folds" },
      folded(
        "How to read the tables",
        make(
          "p",
          { class: "note" },
          `Scores are ×100; ↑ more is better, ↓ less is better. The bar behind a score shows its size, the line below it the 95 % interval. Bold: the best of its column. ≈: not shown to differ from the best, by a paired test on common records, adjusted for all comparisons in the table. 1=: editors whose Score S is not shown to differ from the best. Controls change no weights; they are not ranked and never the best. Below ${
            data.about.least
          } records nothing is ranked or marked. Rows that differ in records, model, protocol or definitions are never ranked together.`,
        ),
      ),
      folded(
        "What the columns mean",
        make(
          "dl",
          { class: "meanings" },
          all.map((name) => [
            make("dt", {}, `${name + arrow(name)} (${metric(name).unit})`),
            make("dd", {}, metric(name).definition),
          ]),
        ),
      ),
      folded(
        "The editors",
        make(
          "dl",
          {},
          used.map((name) => [
            make(
              "dt",
              {},
              link(["editor", name], data.editors[name].title),
              data.editors[name].title === name ? "" : ` (${name})`,
            ),
            make(
              "dd",
              {},
              data.editors[name].summary,
              data.editors[name].paper ? [" · ", paper(data.editors[name].paper)] : "",
            ),
          ]),
        ),
      ),
      folded(
        "How to submit",
        make(
          "p",
          { class: "note" },
          "Evaluate, make a submission of the run, check it, and add its folder to the board's repository by a pull request. The records go with it, and everything is computed anew.",
        ),
        make("pre", { tabindex: 0 }, SUBMIT),
      ),
      folded(
        "How to cite",
        make("p", { class: "note" }, "Cite the editors' papers, the benchmark's, and the toolkit."),
        make("pre", { tabindex: 0 }, cite()),
      ),
    ),
  ];
}
function filters(all, refresh) {
  const select = (name, text) =>
    make(
      "label",
      {},
      text,
      make(
        "select",
        {
          id: `filter-${name}`,
          on: {
            change: (event) => {
              state[name] = event.target.value;
              refresh();
            },
          },
        },
        make("option", { value: "" }, "all"),
        [...new Set(data.groups.map((group) => group[name]))].map((value) =>
          make("option", { value, selected: state[name] === value }, value),
        ),
      ),
    );
  const editor = make("input", {
    id: "filter-editor",
    type: "search",
    value: state.editor,
    placeholder: "part of a name",
    on: {
      input: (event) => {
        state.editor = event.target.value;
        refresh();
      },
    },
  });
  const column = (name) =>
    make(
      "label",
      {},
      make("input", {
        type: "checkbox",
        checked: !state.hidden.has(name),
        "data-column": name,
        on: {
          change: (event) => {
            if (event.target.checked) state.hidden.delete(name);
            else state.hidden.add(name);
            refresh();
          },
        },
      }),
      ` ${name}`,
    );
  return make(
    "details",
    { id: "filters", open: !matchMedia("(max-width: 40rem)").matches },
    make("summary", {}, "Filters and columns"),
    make(
      "div",
      { class: "filters" },
      select("dataset", "data set and version"),
      select("model", "model"),
      select("protocol", "protocol"),
      make("label", {}, "editor", editor),
    ),
    make("fieldset", { class: "columns" }, make("legend", {}, "columns"), all.map(column)),
  );
}
