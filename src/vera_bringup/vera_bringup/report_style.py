"""How the page of an evaluation looks."""

STYLE = """
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2126; --soft: #5d6670; --line: #e4e1d9;
  --reached: #2b7a78; --wrong: #d98324; --rested: #8a6fb0; --time: #b5485d; --other: #8b949e;
  --shade: rgba(43, 122, 120, .14);
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1d2226; --ink: #e9e7e1; --soft: #9aa4ad; --line: #30363c;
    --reached: #5cbcae; --wrong: #f0a757; --rested: #b9a2dc; --time: #e5798c; --other: #8b949e;
    --shade: rgba(92, 188, 174, .18);
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif;
}
main { max-width: 1060px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 44px 0 12px; }
h3 { font-size: 13px; margin: 0 0 10px; font-weight: 600; color: var(--soft); }
p { margin: 0 0 12px; }
.soft { color: var(--soft); }
.hero { display: flex; flex-wrap: wrap; gap: 12px 32px; align-items: center; margin: 28px 0 20px; }
.hero b { font-size: 60px; line-height: 1; letter-spacing: -.03em; color: var(--reached); }
.hero svg { flex: 1 1 320px; max-width: 620px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile, .card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
}
.tile b { display: block; font-size: 22px; line-height: 1.3; font-weight: 600; }
.tile span { font-size: 13px; color: var(--soft); display: block; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 12px;
  margin-top: 12px;
}
.squares { display: flex; flex-wrap: wrap; gap: 3px; }
.squares a { width: 14px; height: 14px; border-radius: 3px; display: block; }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 14px; font-size: 13px;
  color: var(--soft);
}
.legend i {
  display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px;
}
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 14px; }
.films video {
  width: 100%; display: block; border-radius: 6px; background: #000; image-rendering: pixelated;
}
.films .names {
  display: flex; justify-content: space-around; font-size: 12px; color: var(--soft);
  margin: 4px 0 8px;
}
.films strong { display: block; margin-bottom: 4px; }
.tag { font-size: 12px; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:target { background: var(--shade); }
details summary { cursor: pointer; color: var(--soft); margin: 8px 0; }
.scroll { overflow-x: auto; }
code { font: 12.5px ui-monospace, 'SF Mono', Menlo, Consolas, monospace; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; fill: var(--soft); }
svg .name { fill: var(--ink); }
"""
