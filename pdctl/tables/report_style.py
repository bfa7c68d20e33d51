"""The look of the report: one style sheet, light and dark, no fonts or images from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c22; --dim: #63636e; --paper: #fff; --rule: #dedee4;
  --pd: #0a7d4f; --colocated: #1f6fd0; --wait: #b76a00; --other: #8a4fc7; --late: #c2356f;
  --soft: #f4f4f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --dim: #a2a2ae; --paper: #17171b;
  --rule: #34343c; --pd: #46c98f; --colocated: #6aa9ff; --wait: #f0b04a; --other: #c39bf0;
  --late: #f07aa5;
  --soft: #202026; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.1rem;
  margin: 0 0 .6rem; } p { margin: .3rem 0; } .dim { color: var(--dim); }
main { display: grid; gap: 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem),
  1fr)); margin-top: 1.5rem; }
section { min-width: 0; } .wide { grid-column: 1 / -1; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; } thead th { color: var(--dim); font-weight: 500; }
code { background: var(--soft); padding: .15rem .4rem; border-radius: .25rem;
  overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; } .grid { stroke: var(--rule); }
.label { fill: var(--dim); font: 11px system-ui, sans-serif; }
.line { fill: none; stroke: currentColor; stroke-width: 2; } .bar, .mark { fill: currentColor; }
.pd { color: var(--pd); } .colocated { color: var(--colocated); } .wait { color: var(--wait); }
.other { color: var(--other); } .late { color: var(--late); }
.faint { color: var(--dim); opacity: .6; }
.front { stroke-dasharray: 5 4; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0;
  margin: .3rem 0 0; font-size: .85rem; } .legend li::before { content: "■ "; }
"""
