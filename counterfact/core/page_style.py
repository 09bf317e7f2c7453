"""What all pages look like: colours of a light and a dark theme, text, tables, controls."""

STYLE = """
:root { color-scheme: light dark;
  --back: light-dark(#fff, #15181c); --raised: light-dark(#f5f6f8, #1e2228); --ink: light-dark(#1a1d21, #e9ebee);
  --faint: light-dark(#555b63, #a6adb6); --line: light-dark(#d5d9de, #383e46); --link: light-dark(#0a4f9e, #8fc3ff);
  --bar: light-dark(#d9e8f7, #1f3a57); --whisker: light-dark(#5f93c6, #6ea6dd); --chosen: light-dark(#dcebfb, #24405e);
  --gone: light-dark(#6b6f75, #9aa1aa); --new: light-dark(#9a3412, #ffb38a); }
:root[data-theme="light"] { color-scheme: light; } :root[data-theme="dark"] { color-scheme: dark; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: var(--back); color: var(--ink); }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .6rem 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .3rem; } h4 { margin: 1rem 0 .2rem; }
a { color: var(--link); } small, .note { color: var(--faint); } .note { margin: .2rem 0 .6rem; max-width: 62rem; }
button, input, select { font: inherit; padding: .3rem .6rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--back); color: var(--ink); max-width: 100%; }
button { cursor: pointer; } button[aria-pressed="true"], button[aria-current="true"] { background: var(--chosen); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 1px; }
summary { cursor: pointer; padding: .2rem 0; } pre { overflow-x: auto; background: var(--raised); padding: .6rem;
  border-radius: 6px; font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.scroll { overflow-x: auto; } .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
"""
"""The style that pages begin with; `data-theme` on the root overrides what the reader's system asks for."""
