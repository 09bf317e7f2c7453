"""Build CounterFact, edit language models, measure the edits, trace facts, rank editors."""
