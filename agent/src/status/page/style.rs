//! Style of the pages: one column from 400 pixels on, dark or light as the browser asks.

/// Style sheet.
pub(super) const CSS: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --red: #c4262e; --amber: #9a6700;
  --green: #1a7f37; --blue: #0969da }
@media (prefers-color-scheme: dark) { :root { --red: #ff7b72; --amber: #e3b341; --green: #56d364;
  --blue: #79b8ff } }
* { box-sizing: border-box }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif }
main, footer { max-width: 62rem; margin: 0 auto; padding: 1rem }
footer { border-top: 1px solid var(--line); font-size: .875rem; opacity: .8 }
h1 { font-size: 1.4rem; margin: .2rem 0 .4rem } h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem }
h1, h2, h3, p, dd, li, td a { overflow-wrap: anywhere } td { overflow-wrap: break-word }
h3 { font-size: 1rem; margin: 0 0 .4rem }
a { color: var(--blue) } a:focus-visible, summary:focus-visible { outline: 3px solid var(--blue);
  outline-offset: 2px }
.card { border: 1px solid var(--line); border-left: .4rem solid var(--blue); border-radius: .4rem;
  padding: .7rem 1rem; margin: 0 0 .8rem; background: var(--soft) }
.critical { border-left-color: var(--red) } .warning { border-left-color: var(--amber) }
.well { border-left-color: var(--green) }
.badge { font-size: .8rem; font-weight: 700; text-transform: uppercase; letter-spacing: .04em }
.critical .badge { color: var(--red) } .warning .badge { color: var(--amber) }
.well .badge { color: var(--green) } .info .badge { color: var(--blue) }
dl { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: .2rem 1rem;
  margin: .4rem 0 0 }
dt { font-weight: 600 } dd { margin: 0 }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line) }
svg { width: 100%; height: auto; display: block; margin: .6rem 0 }
.chart { overflow-x: auto } .chart svg { min-width: 40rem }
svg text { fill: currentColor; font: 12px system-ui, sans-serif }
ol { padding-left: 0; list-style: none } ol li { display: grid; grid-template-columns: 13rem 1fr;
  gap: 1rem; padding: .25rem 0; border-bottom: 1px solid var(--line) }
@media (max-width: 40rem) { dl, ol li { grid-template-columns: 1fr; gap: 0 }
  .timeline { display: none } dd { margin: 0 0 .4rem }
  td, th { display: block; border: 0; padding: 0 } tr { display: block; padding: .4rem 0;
  border-bottom: 1px solid var(--line) } thead { display: none }
  td[data-of]::before { content: attr(data-of); margin-right: .4rem; opacity: .7 } }
@media print { footer { display: none } .card { break-inside: avoid } }
";
