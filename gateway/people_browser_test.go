package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// waitFor polls until a script gives true.
func waitFor(ctx context.Context, script string) error {
	_, err := chromedp.Run(ctx, chromedp.Poll[bool](script, chromedp.WithPollingInterval(20*time.Millisecond)))
	return err
}

// TestPagesInABrowser has a real browser use the pages by keyboard, with script.
func TestPagesInABrowser(t *testing.T) {
	ctx := browser(t)
	r := newRig(t)
	public, _ := listen(t, r)
	base := "http://" + onLocalhost(public)
	if err := chromedp.Do(ctx, chromedp.Navigate(base+"/choices?client=demo&lang=de")); err != nil {
		t.Fatal(err)
	}
	// What is said is said aloud, and the page stays the same one.
	if _, err := run[bool](ctx, `(window.same = true, document.querySelector('[name=age_band][value="25-34"]').click(), document.querySelector('#say button').focus(), Promise.resolve(true))`); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.KeyEvent("\r")); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(ctx, `window.same === true && document.getElementById("live").textContent === "Gespeichert." && document.activeElement.id === "outcome"`); err != nil {
		t.Fatal(err, r.traits)
	}
	if len(r.traits) != 1 || traitsOf(r.traits[0])["age_band"] != "25-34" {
		t.Fatalf("stored: %+v", r.traits)
	}
	id := r.traits[0].Identity
	if err := chromedp.Do(ctx, chromedp.Navigate(base+"/optout")); err != nil {
		t.Fatal(err)
	}
	if _, err := run[bool](ctx, `(window.same = true, document.querySelector("#out button").click(), Promise.resolve(true))`); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(ctx, `window.same === true && document.getElementById("state").dataset.optedOut === "true" && document.getElementById("live").textContent !== ""`); err != nil {
		t.Fatal(err, r.graph.cuts)
	}
	if len(r.graph.cuts) != 1 || r.graph.cuts[0] != fmt.Sprintf("optout %s false", id) {
		t.Errorf("cuts %v of %s", r.graph.cuts, id)
	}
	if n, err := run[float64](ctx, contrast); err != nil || n < 4.5 {
		t.Errorf("the least contrast is %.2f, %v", n, err)
	}
	// The page's policy holds: nothing inline runs.
	if ran, err := run[bool](ctx, `(() => { const s = document.createElement("script"); s.textContent = "window.inline = true"; document.body.append(s); return Promise.resolve(window.inline === true) })()`); err != nil || ran {
		t.Errorf("an inline script ran: %v, %v", ran, err)
	}
}

// TestBusyPagesInABrowser: a form that could not be sent, or that a browser brings back
// as it was, can be sent again.
func TestBusyPagesInABrowser(t *testing.T) {
	ctx := browser(t)
	public, _ := listen(t, newRig(t))
	if err := chromedp.Do(ctx, chromedp.Navigate("http://"+onLocalhost(public)+"/optout")); err != nil {
		t.Fatal(err)
	}
	if _, err := run[bool](ctx, `(() => {
		window.fetch = () => Promise.reject(new TypeError("offline"));
		HTMLFormElement.prototype.submit = function () { window.sent = (window.sent || 0) + 1 };
		document.querySelector("#out button").click();
		return Promise.resolve(true) })()`); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(ctx, `window.sent === 1`); err != nil {
		t.Fatal(err)
	}
	busy := `Promise.resolve(document.querySelector("#out").hasAttribute("aria-busy"))`
	if is, err := run[bool](ctx, busy); err != nil || is {
		t.Errorf("busy after it was not sent: %t, %v", is, err)
	}
	if is, err := run[bool](ctx, `(document.querySelector("#out").setAttribute("aria-busy", "true"), dispatchEvent(new PageTransitionEvent("pageshow", {persisted: true})), `+busy+`)`); err != nil || is {
		t.Errorf("busy after it came back: %t, %v", is, err)
	}
}

// TestNarrowPagesInABrowser: nothing on a page makes it wider than its window, as a
// trait with a long value would.
func TestNarrowPagesInABrowser(t *testing.T) {
	ctx := browser(t)
	public, _ := listen(t, newRig(t))
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(320, 640), chromedp.Navigate("http://"+onLocalhost(public)+"/choices?client=demo")); err != nil {
		t.Fatal(err)
	}
	wide, err := run[[]string](ctx, `(() => {
		for (const e of document.querySelectorAll("main h1, main p, main a, main label")) e.append("y".repeat(256));
		return Promise.resolve([...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 40))) })()`)
	if err != nil || len(wide) > 0 {
		t.Errorf("wider than the window: %q, %v", wide, err)
	}
}

// TestDarkPagesInABrowser: a browser that likes it dark is given it dark, and legible.
func TestDarkPagesInABrowser(t *testing.T) {
	ctx := browser(t, chromedp.Flag("blink-settings", "preferredColorScheme=0"))
	r := newRig(t)
	public, _ := listen(t, r)
	for _, page := range []string{"/optout", "/choices?client=demo"} {
		if err := chromedp.Do(ctx, chromedp.Navigate("http://"+onLocalhost(public)+page)); err != nil {
			t.Fatal(err)
		}
		if back, err := run[string](ctx, `Promise.resolve(getComputedStyle(document.body).backgroundColor)`); err != nil || back != "rgb(22, 24, 28)" {
			t.Errorf("%s is not dark: %s, %v", page, back, err)
		}
		if n, err := run[float64](ctx, contrast); err != nil || n < 4.5 {
			t.Errorf("%s: the least contrast is %.2f, %v", page, n, err)
		}
	}
}

// contrast is the least ratio of text to what is behind it (WCAG 2, 1.4.3).
const contrast = `(() => {
	const rgb = s => s.match(/[\d.]+/g).map(Number);
	const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
	let least = 21;
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		let p = e, back;
		for (; p; p = p.parentElement) { back = rgb(getComputedStyle(p).backgroundColor); if (back.length < 4 || back[3] > 0) break }
		const a = light(rgb(getComputedStyle(e).color).slice(0, 3)), b = light(back.slice(0, 3));
		least = Math.min(least, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
	}
	return Promise.resolve(least);
})()`

// TestScriptlessPagesInABrowser: a real browser that runs no script opts out, comes back,
// says something and erases it.
func TestScriptlessPagesInABrowser(t *testing.T) {
	ctx := browser(t, chromedp.Flag("blink-settings", "scriptEnabled=false"))
	r := newRig(t)
	public, _ := listen(t, r)
	base := "http://" + onLocalhost(public)
	press := func(page, button string, more ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		actions := append([]chromedp.Action[chromedp.Void]{chromedp.Navigate(base + page)}, more...)
		actions = append(actions, chromedp.Click(button), chromedp.WaitVisible("#outcome"))
		if err := chromedp.Do(ctx, actions...); err != nil {
			t.Fatalf("%s %s: %v", page, button, err)
		}
		// The script would have said so here.
		if said, err := run[string](ctx, `document.getElementById("live").textContent`); err != nil || said != "" {
			t.Fatalf("a script ran: %q, %v", said, err)
		}
	}
	press("/choices?client=acme", "#say button", chromedp.Click(`[name="gender"][value="female"]`))
	if len(r.traits) != 1 || traitsOf(r.traits[0])["gender"] != "female" {
		t.Fatalf("stored: %+v", r.traits)
	}
	press("/optout", "#out button", chromedp.Click(`[name="everywhere"]`))
	press("/optout", "#in button")
	press("/choices?client=demo&lang=de", "#say button", chromedp.Click(`[name="age_band"][value="under-13"]`))
	press("/optout", "#in button")
	press("/choices?client=demo", "#say button", chromedp.Click(`[name="age_band"][value="65+"]`))
	press("/choices", "#erase button")
	if len(r.traits) != 2 || r.traits[0].Identity == r.traits[1].Identity {
		t.Errorf("stored: %+v", r.traits)
	}
	want := fmt.Sprintf("optout %s true, erase %s all", r.traits[0].Identity, r.traits[1].Identity)
	if got := strings.Join(r.graph.cuts, ", "); got != want {
		t.Errorf("cuts %s, want %s", got, want)
	}
}
