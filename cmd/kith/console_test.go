package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"kith/internal/browsertest"
	"kith/internal/config"
)

// consolePatience is how long a page may take for anything, on a busy machine.
const consolePatience = 25 * time.Second

// consoleTab is a browser's tab on the console of a node.
type consoleTab struct {
	t    *testing.T
	ctx  context.Context
	base string // the console's URL
	mu   sync.Mutex
	said []string // errors of the console and violations of its policy
}

// openConsole starts a browser, or skips the test.
func openConsole(t *testing.T, n *liveNode) *consoleTab {
	t.Helper()
	c := &consoleTab{t: t, base: n.service + "/console"}
	c.ctx = browsertest.Start(t, 4*time.Minute, nil, chromedp.WithListener(c.hear))
	c.do(chromedp.EmulateViewport(1360, 860), chromedp.Navigate(c.base))
	return c
}

func (c *consoleTab) hear(ev any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch x := ev.(type) {
	case *log.EventEntryAdded:
		// What the node refuses is shown in the page; the browser notes it too.
		if !strings.HasPrefix(x.Entry.Text, "Failed to load resource") {
			c.said = append(c.said, string(x.Entry.Level)+": "+x.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		c.said = append(c.said, fmt.Sprintf("exception: %+v", x.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if x.Type == runtime.ConsoleAPICalledTypeError || x.Type == runtime.ConsoleAPICalledTypeWarning {
			c.said = append(c.said, fmt.Sprintf("console.%s with %d arguments", x.Type, len(x.Args)))
		}
	}
}

// quiet fails the test if the page said anything since it was last asked.
func (c *consoleTab) quiet() {
	c.t.Helper()
	for _, s := range c.heard() {
		c.t.Errorf("the page says %s", s)
	}
}

func (c *consoleTab) heard() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	said := c.said
	c.said = nil
	return said
}

func (c *consoleTab) do(steps ...chromedp.Action[chromedp.Void]) {
	c.t.Helper()
	if err := chromedp.Do(c.ctx, steps...); err != nil {
		c.t.Fatal(err)
	}
}

// text is the value of a script as text.
func (c *consoleTab) text(script string) string {
	c.t.Helper()
	v, err := chromedp.Run(c.ctx, chromedp.Evaluate[string](`String(`+script+`)`))
	if err != nil {
		c.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// until waits for a condition in the page. It asks from here: the page's policy
// lets nobody make code of text there.
func (c *consoleTab) until(condition string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, consolePatience)
	defer cancel()
	for c.text(`!!(`+condition+`)`) != "true" {
		select {
		case <-ctx.Done():
			c.t.Fatalf("never came: %s\nthe page: %s\nit said %q", condition, c.page(), c.heard())
		case <-time.After(30 * time.Millisecond):
		}
	}
}

func (c *consoleTab) page() string {
	v, _ := chromedp.Run(c.ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 1500)`))
	return v
}

// shows waits for a text within an element.
func (c *consoleTab) shows(selector, text string) {
	c.t.Helper()
	c.until(fmt.Sprintf(`[...document.querySelectorAll(%q)].some(e => e.textContent.includes(%q))`, selector, text))
}

func (c *consoleTab) click(selector string) {
	c.t.Helper()
	c.until(fmt.Sprintf(`document.querySelector(%q)`, selector))
	c.text(fmt.Sprintf(`document.querySelector(%q).click()`, selector))
}

func (c *consoleTab) set(selector, value string) {
	c.t.Helper()
	c.until(fmt.Sprintf(`document.querySelector(%q)`, selector))
	c.text(fmt.Sprintf(`(e => { e.value = %q; e.dispatchEvent(new Event("input")); e.dispatchEvent(new Event("change")) })(document.querySelector(%q))`, value, selector))
}

// view goes to a view and waits for its heading.
func (c *consoleTab) view(path, heading string) {
	c.t.Helper()
	c.text(fmt.Sprintf(`location.hash = "#/%s"`, path))
	c.shows("h1", heading)
}

func (c *consoleTab) signIn(key string) {
	c.t.Helper()
	c.set("#key", key)
	c.click(".sign-in button[type=submit]")
	c.until(`document.querySelector("#nav")`)
}

func (c *consoleTab) signOut() {
	c.t.Helper()
	c.click("#sign-out")
	c.until(`document.querySelector("#key")`)
}

// picture keeps a screenshot in the directory that KITH_SCREENSHOTS names, if any.
func (c *consoleTab) picture(name string) {
	dir := os.Getenv("KITH_SCREENSHOTS")
	if dir == "" {
		return
	}
	for _, theme := range []string{"light", "dark"} {
		c.text(fmt.Sprintf(`document.documentElement.dataset.theme = %q`, theme))
		png, err := chromedp.Run(c.ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+"-"+theme+".png"), png, 0o644)
		}
		if err != nil {
			c.t.Error(err)
		}
	}
	c.text(`delete document.documentElement.dataset.theme`)
}

// tell sends a request with a key and gives the answer.
func (n *liveNode) tell(t *testing.T, key, method, path string, body any) []byte {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, n.service+path, strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s, %v", method, path, resp.Status, answer, err)
	}
	return answer
}

type sent map[string]any

// visitOf is an event of identities in a section.
func visitOf(section string, identities ...string) sent {
	return sent{"event": "page", "identities": identities, "url": "https://news.example/" + section + "/today?utm=1", "props": sent{"section": section}}
}

func (n *liveNode) events(t *testing.T, key string, events ...sent) {
	t.Helper()
	var position string
	for len(events) > 0 {
		k := min(len(events), 1000)
		var a struct {
			Accepted int
			Position string
		}
		if err := json.Unmarshal(n.tell(t, key, "POST", "/v1/events", sent{"events": events[:k]}), &a); err != nil || a.Accepted != k {
			t.Fatalf("%d of %d events taken: %v", a.Accepted, k, err)
		}
		position, events = a.Position, events[k:]
	}
	n.tell(t, key, "GET", "/v1/identities/browser:none1/segments?after="+position, nil)
}

// newKey makes a key.
func (n *liveNode) newKey(t *testing.T, client, role string) string {
	t.Helper()
	var a struct{ Key string }
	if err := json.Unmarshal(n.tell(t, config.DevAdminKey, "POST", "/v1/keys", sent{"client": client, "role": role}), &a); err != nil {
		t.Fatal(err)
	}
	return a.Key
}

// furnish gives the demo client what each view of the console needs.
func furnish(t *testing.T, n *liveNode) {
	t.Helper()
	for id, when := range map[string]string{
		"auto": `count(event.section == "auto", "30d") >= 3`, "sport": `days(event.section == "sport", "30d") >= 1`, "buyers": `count(event.name == "purchase", "30d") >= 1`,
		"lively": `count(true, "1h") >= 5`, "collectors": `count(event.section == "stamps", "30d") >= 1`,
	} {
		n.tell(t, config.DevKey, "PUT", "/v1/segments/"+id, sent{"when": when, "scope": "user", "backfill": true})
	}
	var list []sent
	for i := range 480 {
		id := fmt.Sprintf("browser:visitor%03d", i)
		if i%3 != 0 {
			list = append(list, visitOf("auto", id), visitOf("auto", id), visitOf("auto", id))
		}
		if i%2 == 0 {
			list = append(list, visitOf("sport", id), visitOf("news", id), visitOf("sport", id))
		}
		if i%5 == 0 {
			list = append(list, sent{"event": "purchase", "identities": []string{id}, "props": sent{"price": 19.5 + float64(i)}})
		}
		if i < 12 {
			list = append(list, visitOf("stamps", id))
		}
	}
	list = append(list, visitOf("auto", "browser:me1", "account:7d2f"), visitOf("auto", "browser:me1"), visitOf("news", "browser:phone1", "account:7d2f"),
		visitOf("sport", "browser:tablet1", "account:7d2f"), visitOf("auto", "aaid:38400000-8cf0-11bd-b23e-10b96e40000d", "browser:phone1"))
	n.events(t, config.DevKey, list...)
	n.tell(t, config.DevKey, "POST", "/v1/links", sent{"a": "browser:tv1", "b": "browser:tablet1", "method": "inferred", "confidence": 0.9})
}

// TestConsoleInABrowser goes through the views of the console of a real node with
// an admin's key.
func TestConsoleInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	furnish(t, n)
	c := openConsole(t, n)

	c.until(`document.activeElement.id === "key"`)
	c.picture("sign-in")
	c.set("#key", "guess")
	c.click(".sign-in button[type=submit]")
	c.shows("#key-error", "does not know that key")
	c.picture("sign-in-refused")
	c.signIn(config.DevAdminKey)
	if got := c.text(`JSON.stringify([sessionStorage.getItem("kith-key"), Object.keys(localStorage), document.cookie])`); got != `["`+config.DevAdminKey+`",[],""]` {
		t.Errorf("session, local storage and cookies: %s", got)
	}

	c.shows("h1", "Overview")
	c.until(`document.querySelectorAll(".cards .card").length === 6`)
	c.shows(".facts", "takes entries")
	c.until(`document.querySelector(".chart rect.bar")`)
	c.until(`document.querySelector(".spark-slot .line")`)
	c.picture("overview")

	c.liveView(n)
	c.segmentViews()

	c.view("overlap", "Overlap")
	c.until(`document.querySelectorAll("td.heat").length === 25`)
	c.shows("td.heat.diagonal", "326") // of 480, those whose number three does not divide, and a user of six
	c.picture("overlap")
	c.click(".choose summary")
	c.picture("overlap-choose")

	c.view("count", "Count")
	c.set("#expr", "auto & sport")
	c.click(".body form button[type=submit]")
	c.shows(".huge", "166")
	c.picture("count")
	c.set("#expr", "auto & (")
	c.click(".body form button[type=submit]")
	c.shows(".state.failed", "expr")
	c.picture("count-error")

	c.view("leakage", "Leakage")
	c.shows(".state.empty", "data-leaks")
	n.events(t, config.DevKey, sent{"event": "kith.hosts", "identities": []string{"browser:visitor001"}, "url": "https://news.example/a", "props": sent{"hosts": "cdn.example ads.example"}})
	c.view("overview", "Overview")
	c.view("leakage", "Leakage")
	c.shows(".panel", "ads.example")
	c.shows(".panel", "news.example")
	c.picture("leakage")

	c.view("explain", "Explain")
	// Facts are those of the rules of now: something comes of it after their change.
	n.events(t, config.DevKey, visitOf("news", "browser:visitor001"))
	c.set("#identity", "browser:visitor001")
	c.set("#segment", "auto")
	c.click(".body form button[type=submit]")
	c.shows(".verdict h2", "In auto")
	c.shows(".facts", "Will leave")
	c.until(`document.querySelectorAll(".fact-list li.good time").length === 3`)
	c.picture("explain")
	c.set("#identity", "browser:nobody1")
	c.click(".body form button[type=submit]")
	c.shows(".verdict h2", "Not in auto")

	c.userView(n)

	c.view("cluster", "Cluster")
	c.shows(".node-card", "ready")
	c.shows(".lane-cell", "lag")
	c.picture("cluster")

	c.view("partitions", "Partitions")
	c.until(`document.querySelectorAll(".slot").length === 64`)
	c.picture("partitions")

	c.view("letters", "Dead letters")
	c.shows(".state.empty", "No dead letters")
	c.picture("letters")

	c.view("nonsense", "No such view")
	c.do(chromedp.EmulateViewport(400, 800))
	c.view("segments", "Segments")
	c.until(`document.querySelectorAll("tbody tr").length === 5`)
	c.picture("segments-narrow")
	c.click(".menu")
	c.until(`document.querySelector(".menu").getAttribute("aria-expanded") === "true"`)
	c.picture("menu-narrow")
	c.do(chromedp.EmulateViewport(1360, 860))

	c.quiet()
	// The listener hears violations: one on purpose.
	c.text(`document.body.setAttribute("style", "color: red")`)
	c.until(`true`)
	if said := strings.Join(c.heard(), "\n"); !strings.Contains(said, "Content Security Policy") {
		t.Errorf("an inline style went through: %q", said)
	}
}

func (c *consoleTab) liveView(n *liveNode) {
	c.t.Helper()
	c.view("live", "Live events")
	c.shows(".tally", "taken in")
	c.picture("live-empty")
	n.events(c.t, config.DevKey, visitOf("auto", "browser:live1", "account:9f31"), sent{"event": "purchase", "identities": []string{"browser:live2"}, "props": sent{"price": 99.5, "new": true}}, visitOf("sport", "browser:live3"))
	c.until(`document.querySelectorAll("table.live tbody tr").length === 3`)
	c.shows("table.live .identity", "browser:live1")
	c.shows(".tally", "3 taken in")
	if got := c.text(`document.querySelector("table.live").textContent`); strings.Contains(got, "utm=1") {
		c.t.Errorf("a query is shown: %s", got)
	}
	c.picture("live")
	c.click("#pause")
	c.shows(".tally", "Paused")
	c.click("#pause")
	c.shows(".tally", "0 taken in") // a new feed
}

func (c *consoleTab) segmentViews() {
	t := c.t
	t.Helper()
	c.view("segments", "Segments")
	c.until(`document.querySelectorAll("tbody tr").length === 5`)
	c.shows("tbody tr", "collectors")
	c.picture("segments")

	c.view("segments/auto", "auto")
	c.until(`document.querySelector(".chart circle.point")`)
	c.shows(".size-now", "326")
	c.picture("segment")

	c.view("segments/+new", "New segment")
	c.set("#segment-id", "readers")
	c.set("#rule", "count(event.section == \"news\", \"30d\") >= 1 &&\n  cuont(true) > 1")
	c.click("#preview")
	c.shows(".rule-error", "Line 2, column 3")
	if got := c.text(`document.querySelector(".wrong").textContent`); got != "cuont" {
		t.Errorf("%q is marked", got)
	}
	if got := c.text(`(a => a.value.slice(a.selectionStart, a.selectionEnd) + " " + a.getAttribute("aria-invalid") + " " + (document.activeElement === a))(document.querySelector("#rule"))`); got != "cuont true true" {
		t.Errorf("the editor is left with %q", got)
	}
	c.picture("rule-error")
	c.click(".rule-error button.small") // what was meant
	c.until(`document.querySelector("#rule").value.includes("  count(true) > 1")`)
	c.until(`!document.querySelector(".wrong")`)
	c.click("#preview")
	c.until(`document.querySelector(".preview dd")`)
	if got := c.text(`[...document.querySelectorAll(".preview dd")].map(e => e.textContent).join(" ")`); got != "0 +246 −0 246" {
		t.Errorf("the preview says %q", got)
	}
	c.picture("preview")
	c.click("#save")
	c.shows("h1", "readers")
	c.shows(".size-now", "246")
	c.view("segments", "Segments")
	c.until(`document.querySelectorAll("tbody tr").length === 6`)
	// Deleted, only once that is confirmed; and defined anew for what follows.
	c.view("segments/collectors", "collectors")
	c.click("#delete")
	c.until(`document.querySelector("dialog[open]")`)
	c.picture("delete")
	c.click("dialog button[value=no]")
	c.until(`!document.querySelector("dialog")`)
	c.click("#delete")
	c.click("dialog button[value=yes]")
	c.shows("h1", "Segments")
	c.until(`document.querySelectorAll("tbody tr").length === 5 && !document.querySelector("tbody").textContent.includes("collectors")`)
	c.view("segments/+new", "New segment")
	c.set("#segment-id", "collectors")
	c.set("#rule", `count(event.section == "stamps", "30d") >= 1`)
	c.click("#save")
	c.shows("h1", "collectors")
	c.shows(".size-now", "12")
	c.view("segments/readers", "readers")
	c.click("#delete")
	c.click("dialog button[value=yes]")
	c.shows("h1", "Segments")
	c.until(`document.querySelectorAll("tbody tr").length === 5`)
}

// userView looks at a user of six, unlinks one and cuts another out.
func (c *consoleTab) userView(n *liveNode) {
	t := c.t
	t.Helper()
	c.view("user", "User graph")
	c.shows(".state.empty", "Whose graph?")
	c.set("#identity", "browser:me1")
	c.click(".body form button[type=submit]")
	c.until(`document.querySelectorAll(".graph .node").length === 6 && document.querySelectorAll(".graph .edge").length === 5`)
	c.picture("user")
	c.text(`document.querySelector(".graph .edge.inferred").dispatchEvent(new PointerEvent("pointerenter"))`)
	if got := c.text(`document.querySelector(".about h2").textContent`); got != "Identity" && got != "Identity, the root" {
		t.Errorf("what the pointer passes over is chosen: %s", got)
	}
	c.text(`document.querySelector(".graph .edge.inferred").dispatchEvent(new MouseEvent("click"))`)
	c.shows(".about", "90%")
	c.shows(".about", "demo")
	c.picture("user-edge")

	c.click(".about .quiet-danger")
	c.until(`document.querySelector("dialog[open]")`)
	c.click("dialog button[value=yes]")
	c.until(`document.querySelectorAll(".graph .node").length === 5 && document.querySelectorAll(".graph .edge").length === 4`)

	c.until(`document.querySelector("[data-optout='browser:me1']")`)
	c.click("[data-optout='browser:me1']")
	c.until(`document.querySelector("dialog[open]")`)
	c.picture("optout")
	c.click("dialog button[value=yes]")
	c.until(`document.querySelector(".graph .edge.cut .stroke")?.getAnimations().length > 0`) // the link vanishes
	c.until(`document.querySelector(".graph .node.gone")`)
	c.shows(".receipt dl", "Signature")
	c.click("#verify")
	c.until(`document.querySelectorAll(".checks li").length === 5`)
	if bad := c.text(`[...document.querySelectorAll(".checks li.bad")].map(e => e.textContent).join()`); bad != "" {
		t.Errorf("the receipt is not right: %s", bad)
	}
	c.shows(".checks li.good", "Nothing of the identity is left")
	c.shows(".checks li", "The signature is right, checked in this browser")
	c.picture("receipt")
	if got := n.kith(t, "lookup", "browser:me1"); strings.Contains(got, "auto") || !strings.Contains(got, "opted out") {
		t.Errorf("after the opt-out: %s", got)
	}
	c.view("receipts/browser%3Ame1", "Receipts")
	c.shows(".panel h2", "Opted out")
	c.shows(".receipt dl", "Signature")
	c.picture("receipts")
	c.view("user/browser%3Ame1", "User graph")
	c.shows(".state.empty", "Opted out")
	c.view("user/account%3A7d2f", "User graph")
	c.until(`document.querySelectorAll(".graph .node").length === 4`)
}

// A client's key and a report key are offered what they may do, and shown no more
// than that.
func TestConsoleRolesInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	furnish(t, n)
	acme := n.newKey(t, "acme", "client")
	report := n.newKey(t, "demo", "report")
	c := openConsole(t, n)

	c.signIn(config.DevKey)
	if got := c.text(`[...document.querySelectorAll("#nav a")].map(a => a.dataset.view).join()`); got != "overview,live,segments,overlap,count,user,explain,receipts,leakage" {
		t.Errorf("a client's key is offered %s", got)
	}
	if got := c.text(`document.querySelectorAll("#client").length`); got != "0" {
		t.Error("a client's key may pick a client")
	}
	c.until(`document.querySelector(".chart rect.bar")`)
	c.picture("client-overview")
	for _, path := range []string{"cluster", "partitions", "letters"} {
		c.view(path, "No such view")
	}
	c.view("overlap", "Overlap")
	c.until(`document.querySelectorAll("td.heat").length === 25`)
	c.shows("td.hidden-cell", "< 50")
	c.shows(".legend-hidden", "Fewer than 50 people")
	c.picture("client-overlap")
	c.view("live", "Live events")
	c.shows(".tally", "taken in")
	n.events(t, acme, visitOf("theirs", "browser:other1"))
	n.events(t, config.DevKey, visitOf("auto", "browser:live1"))
	c.shows("table.live .identity", "browser~")
	if got := c.text(`document.querySelector("table.live").textContent`); strings.Contains(got, "live1") || strings.Contains(got, "theirs") {
		t.Errorf("the feed shows %s", got)
	}
	c.picture("client-live")
	c.signOut()
	if got := c.text(`sessionStorage.length + " " + document.body.textContent.includes("browser~")`); got != "0 false" {
		t.Errorf("after signing out: %s", got)
	}

	c.signIn(acme)
	c.view("segments", "Segments")
	c.shows(".state.empty", "No segments yet")
	c.picture("no-segments")
	c.signOut()

	c.signIn(report)
	if got := c.text(`[...document.querySelectorAll("#nav a")].map(a => a.dataset.view).join()`); got != "overview,count" {
		t.Errorf("a report key is offered %s", got)
	}
	c.picture("report-overview")
	c.view("count", "Count")
	c.set("#expr", "auto")
	c.click(".body form button[type=submit]")
	c.until(`/^3[23]0$/.test(document.querySelector(".huge")?.textContent)`) // of 326
	c.shows(".count-card", "Rounded to 10")
	for _, path := range []string{"live", "segments", "overlap", "user", "explain", "receipts", "cluster"} {
		c.view(path, "No such view")
	}
	c.quiet()
}

// Everything can be done with keys alone.
func TestConsoleKeyboardInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	furnish(t, n)
	c := openConsole(t, n)
	press := func(keys ...string) {
		t.Helper()
		for _, k := range keys {
			c.do(chromedp.KeyEvent(k))
		}
	}
	// tabTo presses Tab until an element has the focus.
	tabTo := func(selector string) {
		t.Helper()
		for range 120 {
			if c.text(fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) == "true" {
				if got := c.text(`(s => s.outlineStyle + s.strokeWidth)(getComputedStyle(document.activeElement.querySelector("circle, .stroke") || document.activeElement))`); strings.HasPrefix(got, "none") && !strings.HasPrefix(selector, ".graph") {
					t.Errorf("the focus on %s is not to be seen: %s", selector, got)
				}
				return
			}
			press(kb.Tab)
		}
		t.Fatalf("Tab never comes to %s; it is at %s", selector, c.text(`document.activeElement.outerHTML.slice(0, 200)`))
	}
	c.until(`document.activeElement.id === "key"`)
	press(config.DevKey, kb.Enter)
	c.until(`document.querySelector("#nav") && document.activeElement.tagName === "H1"`)
	c.text(`document.activeElement.blur()`)
	tabTo(".skip")
	press(kb.Enter)
	c.until(`document.activeElement.id === "main"`)
	c.text(`document.querySelector(".skip").focus()`)
	tabTo(`#nav a[data-view=user]`)
	press(kb.Enter)
	c.until(`document.activeElement.id === "identity"`)
	press("browser:me1", kb.Enter)
	c.until(`document.querySelectorAll(".graph .node").length === 6`)
	tabTo(".graph .edge")
	press(kb.Enter)
	c.shows(".about h2", "Link")
	c.until(`document.activeElement.matches(".about")`)
	// Who comes by another member on the way to the buttons has not chosen it.
	c.text(`document.querySelector(".skip").focus()`)
	tabTo(".graph .node.centre")
	press(" ")
	c.shows(".about", "browser:me1")
	c.until(`document.activeElement.matches(".about")`)
	c.text(`document.querySelector(".skip").focus()`)
	tabTo(".graph .node:not(.centre)")
	tabTo("[data-optout]")
	if got := c.text(`document.activeElement.dataset.optout`); got != "browser:me1" {
		t.Errorf("the button is for %s", got)
	}
	press(kb.Enter)
	c.until(`document.querySelector("dialog[open]") && document.querySelector("dialog").contains(document.activeElement)`)
	press(kb.Escape)
	c.until(`!document.querySelector("dialog") && document.activeElement.matches("[data-optout]")`)
	c.text(`document.querySelector(".skip").focus()`)
	tabTo(`#nav a[data-view=overlap]`)
	press(kb.Enter)
	c.until(`document.querySelectorAll("td.heat").length === 25`)
	tabTo(".choose summary")
	press(kb.Enter)
	c.until(`document.querySelector(".choose[open]")`)
	tabTo(".tick input")
	press(" ")
	c.until(`document.querySelectorAll("td.heat").length === 16`)
	c.until(`document.activeElement.matches(".tick input:not(:checked)")`)
	tabTo(".heatmap th a, .scroll[aria-label=Overlap]")
	tabTo(".heatmap th a")
	press(kb.Enter)
	c.until(`location.hash.startsWith("#/segments/")`)
	c.text(`document.querySelector(".skip").focus()`)
	tabTo("#theme")
	press(kb.Enter)
	c.until(`document.documentElement.dataset.theme === "light"`)
	press(kb.Enter)
	c.until(`document.documentElement.dataset.theme === "dark" && localStorage.getItem("kith-theme") === "dark"`)
	press(kb.Enter)
	c.until(`!document.documentElement.dataset.theme && localStorage.length === 0`)
	c.quiet()
}

// holdBack makes the page wait for the next answer of a path until release is
// called; settled is true once what came of it is drawn.
func (c *consoleTab) holdBack(path string) {
	c.t.Helper()
	c.text(fmt.Sprintf(`(() => {
		const real = window.fetch;
		let held = false;
		window.settled = false;
		window.fetch = (...a) => {
			const answer = real(...a);
			if (held || !String(a[0]).startsWith(%q)) return answer;
			held = true;
			return new Promise((done) => { window.release = () => { window.fetch = real; done(answer); setTimeout(() => { window.settled = true; }, 300); }; });
		};
	})()`, path))
}

// What is shown is of what was asked for last, whichever answer comes last.
func TestConsoleLateAnswersInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	furnish(t, n)
	c := openConsole(t, n)
	c.signIn(config.DevAdminKey)

	c.view("count", "Count")
	c.holdBack("/v1/audiences/count")
	c.set("#expr", "auto")
	c.click(".body form button[type=submit]")
	c.until(`window.release`)
	c.set("#expr", "collectors")
	c.click(".body form button[type=submit]")
	c.shows(".huge", "12")
	c.text(`release()`)
	c.until(`settled`)
	if got := c.text(`document.querySelector(".huge")?.textContent`); got != "12" {
		t.Errorf("the count of collectors reads %s after the answer for auto", got)
	}

	c.view("overlap", "Overlap")
	c.until(`document.querySelectorAll("td.heat").length === 25`)
	c.text(`release = null`)
	c.holdBack("/v1/audiences/overlap")
	c.text(`document.querySelector(".bar select").dispatchEvent(new Event("change"))`)
	c.until(`window.release`)
	c.text(`document.querySelectorAll(".tick input").forEach((x) => x.click())`)
	c.shows(".state.empty", "Nothing chosen")
	c.text(`release()`)
	c.until(`settled`)
	c.text(`document.querySelectorAll(".bar select")[1].dispatchEvent(new Event("change"))`)
	if got := c.text(`document.querySelectorAll("td.heat").length + document.querySelector(".body").textContent`); !strings.HasPrefix(got, "0") || !strings.Contains(got, "Nothing chosen") {
		t.Errorf("with nothing chosen the page shows %s", got)
	}
	c.quiet()
}

// A view that is left open for long does not grow.
func TestConsoleLeftOpenInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	c := openConsole(t, n)
	c.signIn(config.DevAdminKey)
	c.view("count", "Count")
	c.text(`(() => {
		window.rounds = 0;
		window.listeners = 0;
		const later = window.setTimeout, real = window.fetch, { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
		window.setTimeout = (f, ms, ...a) => later(f, ms / 100, ...a);
		window.fetch = (...a) => { if (a[0] === "/metrics") window.rounds++; return real(...a); };
		AbortSignal.prototype.addEventListener = function (...a) { window.listeners++; return add.apply(this, a); };
		AbortSignal.prototype.removeEventListener = function (...a) { window.listeners--; return remove.apply(this, a); };
	})()`)
	c.view("overview", "Overview")
	c.until(`rounds >= 40`)
	if got := c.text(`listeners <= 3`); got != "true" {
		t.Errorf("%s listeners are left after %s rounds", c.text(`listeners`), c.text(`rounds`))
	}
	// What has the focus keeps it.
	c.text(`(() => { const real = window.fetch; window.fetch = async (...a) => { const r = await real(...a); return a[0] === "/metrics" ? new Response(await r.text() + "\nkith_dead_letters{lane=\"1\"} 3\n") : r; }; })()`)
	c.until(`document.querySelector(".facts a")`)
	c.text(`(kept = document.querySelector(".facts a")).focus(), window.rounds = 0`)
	c.until(`rounds >= 5`)
	c.until(`document.querySelector(".facts a") !== kept`) // and what is around it is of now
	if got := c.text(`document.activeElement.textContent`); got != "3 set aside" {
		t.Errorf("the focus is on %.40q", got)
	}
	c.view("count", "Count")
	before := c.text(`rounds`)
	time.Sleep(200 * time.Millisecond)
	if after := c.text(`rounds`); after != before {
		t.Errorf("a view that was left goes on: %s rounds, then %s", before, after)
	}
	c.quiet()
}

// TestConsoleStatesInABrowser goes through what views show of states that are not
// come by every day.
func TestConsoleStatesInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	n.events(t, config.DevKey, visitOf("auto", "browser:in1", "account:in1"), visitOf("auto", "browser:gone1"),
		visitOf("auto", "browser:one1", "account:several"), visitOf("auto", "browser:two1", "account:several"), visitOf("auto", "browser:three1", "account:several"))
	c := openConsole(t, n)
	c.signIn(config.DevAdminKey)
	c.receiptStates(n)
	c.manyLetters()
	c.replaysALetter()
	c.drainsANode()
	c.manyDays(n)
	c.userErrors()
	c.explainAddress(n)
	c.watchedViews(n)
	c.quiet()
}

// instead makes the page's requests for addresses that match a pattern get what a
// script gives for their number, from 1 on, be it null: then they are sent.
func (c *consoleTab) instead(pattern, script string) {
	c.t.Helper()
	c.text(fmt.Sprintf(`(() => { window.really ||= window.fetch; let i = 0; window.fetch = async (u, o) => (%s.test(u) && await (%s)(++i, u, o)) || window.really(u, o); })()`, pattern, script))
}

// really undoes instead.
func (c *consoleTab) really() {
	c.t.Helper()
	c.text(`window.fetch = window.really`)
}

// receiptStates: who was opted in again is not told as erased.
func (c *consoleTab) receiptStates(n *liveNode) {
	c.t.Helper()
	c.view("receipts/browser%3Aopted1", "Receipts")
	c.shows(".state.empty", "Not opted out")
	n.tell(c.t, config.DevKey, "POST", "/v1/optouts", sent{"identity": "browser:in1"})
	c.view("receipts/browser%3Ain1", "Receipts")
	c.shows(".panel h2", "Opted out")
	c.click("section.panel .panel-head button")
	c.until(`document.querySelector("dialog[open]")`)
	c.click("dialog button[value=yes]")
	c.shows(".panel h2", "Opted in again")
	c.shows(".body", "The receipt is of the opt-out before")
	c.shows(".receipt dl", "optout")
	if got := c.text(`document.querySelector("section.panel").textContent`); strings.Contains(got, "Erased") || strings.Contains(got, "final") || !strings.Contains(got, "since") {
		c.t.Errorf("of who was opted in it says %q", got)
	}
	c.picture("opted-in")
	c.instead(`/optouts/`, `async (i, u, o) => { const x = await (await window.really(u, o)).json(); return new Response(JSON.stringify({ ...x, counts_from: "2031-02-03T04:05:06Z" })); }`)
	c.click("form.bar button")
	c.shows(".panel .warn", "3 Feb 2031")
	c.really()
	n.tell(c.t, config.DevAdminKey, "DELETE", "/v1/identities/browser:gone1", nil)
	c.view("receipts/browser%3Agone1", "Receipts")
	c.shows(".panel h2", "Erased")
	c.shows(".panel .chip", "final")
}

// manyLetters: where not all dead letters are listed, that is said.
func (c *consoleTab) manyLetters() {
	c.t.Helper()
	c.instead(`/deadletters/`, `(i, u) => { const n = Math.min(i > 1 ? 999 : 4096, new URLSearchParams(u.split("?")[1]).get("limit")); return new Response(JSON.stringify({ deadletters: Array.from({ length: n }, (_, k) => ({ id: "0:1:" + k, lane: 0, time: "2026-11-30T12:00:00Z", reason: "boom" })) })); }`)
	c.view("letters", "Dead letters")
	c.until(`document.querySelectorAll("tbody tr").length === 1000`)
	c.shows(".body", "The oldest 1,000 are shown")
	c.click(".tools button")
	c.until(`document.querySelectorAll("tbody tr").length === 999`)
	if got := c.text(`document.querySelector(".body").textContent`); strings.Contains(got, "are shown") {
		c.t.Errorf("where all are listed it says %.200s", got)
	}
	c.really()
}

// yes answers the page's question.
func (c *consoleTab) yes(says string) {
	c.t.Helper()
	c.shows("dialog[open]", says)
	c.click("dialog button[value=yes]")
	c.until(`!document.querySelector("dialog")`)
}

// replaysALetter: a command that was set aside is submitted again once, when that is
// confirmed, by its id.
func (c *consoleTab) replaysALetter() {
	c.t.Helper()
	c.text(`window.asked = []`)
	c.instead(`/deadletters/`, `(i, u, o) => {
		if (o.method !== "GET") asked.push(o.method + " " + u);
		return new Response(JSON.stringify(o.method !== "GET" ? {} : { deadletters: ["0:7:1", "0:9:0"].map((id, k) => ({ id, lane: 0, time: "2026-11-30T12:00:00Z", reason: "boom", replayed: k === 0 && asked.length > 0 })) }));
	}`)
	c.view("count", "Count")
	c.view("letters", "Dead letters")
	c.until(`document.querySelectorAll("tbody tr button").length === 2`)
	c.click("tbody tr button")
	c.shows("dialog[open]", "0:7:1")
	c.click("dialog button[value=no]")
	c.until(`!document.querySelector("dialog")`)
	c.click("tbody tr button")
	c.yes("0:7:1")
	c.shows(".toast", "0:7:1 was submitted again")
	c.shows("tbody tr:first-child .chip", "replayed")
	if got := c.text(`asked.join() + ", " + document.querySelectorAll("tbody tr button").length`); got != "POST /v1/deadletters/0%3A7%3A1/replay, 1" {
		c.t.Errorf("replaying asks %s", got)
	}
	c.instead(`/deadletters/`, `(i, u, o) => o.method === "GET" ? null : `+refusal)
	c.text(`document.querySelector(".toast").remove()`)
	c.click("tbody tr button")
	c.yes("0:9:0")
	c.shows(".toast.bad", "not now")
	c.shows(".state.empty", "No dead letters") // the node's own
	c.really()
}

// drainsANode: a node is drained when that is confirmed, and is shown so until it is ended.
func (c *consoleTab) drainsANode() {
	c.t.Helper()
	c.text(`window.asked = []`)
	c.instead(`/cluster/`, `async (i, u, o) => {
		if (o.method !== "GET") {
			asked.push(o.method + " " + u);
			return new Response("{}");
		}
		const x = await (await window.really(u, o)).json();
		x.nodes.push({ ...structuredClone(x.nodes[0]), name: "n 2", draining: asked.length === 1 });
		return new Response(JSON.stringify(x));
	}`)
	c.view("cluster", "Cluster")
	c.click(".node-card:nth-child(2) button")
	c.yes("Drain n 2?")
	c.shows(".toast", "Done")
	c.shows(".node-card:nth-child(2) .chip", "draining")
	c.picture("draining")
	c.shows(".node-card:nth-child(2) button", "End draining")
	c.click(".node-card:nth-child(2) button")
	c.shows(".node-card:nth-child(2) .chip", "ready")
	if got := c.text(`asked.join()`); got != "POST /v1/cluster/nodes/n%202/drain,DELETE /v1/cluster/nodes/n%202/drain" {
		c.t.Errorf("draining asks %s", got)
	}
	c.really()
}

// manyDays: of a long time each day is a point, those without a number are gaps, and the
// axis has as many days as can be read.
func (c *consoleTab) manyDays(n *liveNode) {
	c.t.Helper()
	n.tell(c.t, config.DevKey, "PUT", "/v1/segments/long", sent{"when": `count(true) >= 1`})
	c.instead(`/long.sizes/`, `(i, u) => {
		const first = Date.parse(new URLSearchParams(u.split("?")[1]).get("from"));
		const days = Math.round((Date.now() - first) / 86400e3 + 0.5);
		return new Response(JSON.stringify({ sizes: Array.from({ length: days }, (_, k) => ({ day: new Date(first + k * 86400e3).toISOString().slice(0, 10), identities: k % 40 === 7 ? null : 1000 + 17 * k, below: k % 40 === 7 ? 50 : undefined, so_far: k === days - 1 })) }));
	}`)
	c.view("segments/long", "long")
	c.until(`document.querySelector(".segmented button[data-days]")`)
	c.text(`[...document.querySelectorAll(".segmented button[data-days]")].at(-1).click()`)
	c.until(`document.querySelector(".segmented button:last-child[aria-pressed=true]") && document.querySelectorAll(".chart circle.point").length > 300`)
	days := c.text(`document.querySelector(".segmented button:last-child").dataset.days`)
	if got := c.text(`document.querySelectorAll("svg[aria-label='Size by day'] circle.point").length + Math.floor((` + days + ` - 8) / 40) + 1`); got != days {
		c.t.Errorf("of %s days %s are points or gaps", days, got)
	}
	// They touch: the line is to be seen, and of them only the day that is not over.
	if got := c.text(`[...document.querySelectorAll("svg[aria-label='Size by day'] circle.point")].filter((e) => getComputedStyle(e).opacity !== "0").length`); got != "1" {
		c.t.Errorf("%s points hide the line", got)
	}
	const apart = `(() => { const t = [...document.querySelectorAll("svg[aria-label='Size by day'] text.axis")].filter((e) => e.getAttribute("text-anchor") !== "end" || +e.getAttribute("x") > 400).map((e) => e.getBoundingClientRect()).sort((a, b) => a.left - b.left); return t.length > 3 && t.every((r, i) => !i || r.left >= t[i - 1].right); })()`
	if got := c.text(apart); got != "true" {
		c.t.Error("the days of the axis lie upon one another")
	}
	c.shows(".body", "Days with fewer than 50 are gaps")
	c.text(`[...document.querySelectorAll("svg[aria-label='Size by day'] circle.point")].at(-1).dispatchEvent(new Event("pointerenter"))`)
	c.shows(".chart-says", "so far")
	c.picture("many-days")
	c.really()
}

// refusal is an answer as a node gives it that cannot answer now.
const refusal = `new Response(JSON.stringify({ error: { code: "unavailable", message: "not now" } }), { status: 503 })`

// userErrors: after an error the view goes on, and an opt-out that was done is told
// as done.
func (c *consoleTab) userErrors() {
	c.t.Helper()
	c.view("user/browser%3Aone1", "User graph")
	optOut := func() {
		c.t.Helper()
		c.click(".about [data-optout='browser:one1']")
		c.until(`document.querySelector("dialog[open]")`)
		c.click("dialog button[value=yes]")
	}
	c.instead(`/optouts/`, `() => `+refusal)
	optOut()
	c.shows(".toast.bad", "not now")
	c.until(`document.querySelector(".about [data-optout='browser:one1']")`)
	c.really()

	// Only a question how far it is fails: of the first answer and the next.
	c.instead(`/optouts/`, `async (i, u, o) => {
		if (i > 2) return null;
		if (i > 1) throw new TypeError("no answer");
		const x = await (await window.really(u, o)).json();
		return new Response(JSON.stringify({ ...x, final: false, receipt: undefined }));
	}`)
	optOut()
	c.shows(".receipt dl", "Signature")
	c.really()

	c.view("user/browser%3Atwo1", "User graph")
	c.until(`document.querySelectorAll(".graph .node").length === 3`)
	c.instead(`/\/v1\/users\//`, `() => `+refusal)
	c.click("[aria-label^='Remove the link of']")
	c.until(`document.querySelector("dialog[open]")`)
	c.click("dialog button[value=yes]")
	c.shows(".body .state.failed", "not now")
	c.really()
	c.click(".body .state.failed button")
	c.until(`document.querySelector(".graph .node")`)
}

// explainAddress: an address that names both is asked at once.
func (c *consoleTab) explainAddress(n *liveNode) {
	c.t.Helper()
	n.tell(c.t, config.DevKey, "PUT", "/v1/segments/first", sent{"when": `count(true) >= 1`})
	n.tell(c.t, config.DevKey, "PUT", "/v1/segments/second", sent{"when": `count(true) >= 99`})
	c.view("explain?identity=browser%3Ain1&segment=second", "Explain")
	c.shows(".verdict h2", "Not in second")
	// One that is not there is not asked for as another.
	c.view("explain?identity=browser%3Ain1&segment=third", "Explain")
	c.until(`document.querySelector("#segment")`)
	if got := c.text(`document.querySelector(".verdict") || document.querySelector(".body [aria-live]").textContent`); got != "" {
		c.t.Errorf("asked of a segment that is not there it says %q", got)
	}
}

// watchedViews: what is asked for again and again is drawn anew where it has the focus
// too, which stays, and an error is told once.
func (c *consoleTab) watchedViews(n *liveNode) {
	c.t.Helper()
	c.text(`(() => { window.later = window.setTimeout; window.setTimeout = (f, ms, ...a) => later(f, ms / 20, ...a); })()`)
	const two = `async (i, u, o) => {
		const x = await (await window.really(u, o)).json();
		const other = structuredClone(x.nodes[0]);
		other.name = "other";
		other.why = "round " + i;
		x.nodes.push(other);
		return new Response(JSON.stringify(x));
	}`
	round := func(selector string) {
		c.t.Helper()
		c.until(fmt.Sprintf(`document.querySelector(%q)`, selector))
		c.text(fmt.Sprintf(`window.shown = document.querySelector(".node-card .warn").textContent, document.querySelector(%q).focus()`, selector))
		c.until(`document.querySelector(".node-card .warn").textContent !== shown`)
		if got := c.text(fmt.Sprintf(`document.activeElement.matches(%q)`, selector)); got != "true" {
			c.t.Errorf("the focus has left %s", selector)
		}
	}
	c.instead(`/cluster$/`, two)
	c.view("cluster", "Cluster")
	round(".scroll[tabindex]")
	round(".node-card:nth-child(2) button")

	c.really()
	c.instead(`/cluster$/`, `i => (window.tries = i, `+refusal+`)`)
	c.shows(".state.failed", "not now")
	c.text(`(window.card = document.querySelector(".state.failed")).querySelector("button").focus(), window.from = tries`)
	c.until(`tries > from + 3`)
	if got := c.text(`card.isConnected && card.contains(document.activeElement)`); got != "true" {
		c.t.Error("the same error is told again")
	}
	c.really()
	c.until(`document.querySelector(".node-card") && !document.querySelector(".state.failed")`)

	c.view("partitions", "Partitions")
	c.until(`document.querySelector(".scroll tbody")`)
	c.text(`(window.shown = document.querySelector(".scroll tbody")).closest(".scroll").focus()`)
	c.until(`!shown.isConnected`)
	if got := c.text(`document.activeElement.matches(".scroll")`); got != "true" {
		c.t.Error("the focus has left the table of lanes")
	}

	n.tell(c.t, config.DevKey, "PUT", "/v1/segments/watched", sent{"when": `count(true) >= 1`})
	c.view("segments/watched", "watched")
	c.until(`document.querySelector("#rule")`)
	c.instead(`/segments.watched\b(?!.sizes)/`, `() => `+refusal)
	c.shows(".state.failed", "not now")
	c.really()
	c.until(`!document.querySelector(".state.failed") && document.querySelector("#rule")`)
	c.text(`window.setTimeout = later`)
}

// What is typed into the address bar shuts nobody out, and a question goes with
// the view that asks it.
// What is typed or pasted wrongly is told as what it is, and takes nothing away.
func TestConsoleMistakesInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	furnish(t, n)
	for i := range 200 {
		n.tell(t, config.DevKey, http.MethodPut, fmt.Sprintf("/v1/segments/zz-%03d", i), map[string]any{"when": `count(event.section == "zz", "30d") >= 1`, "backfill": true})
	}
	c := openConsole(t, n)
	c.set("#key", config.DevKey+"\u200b") // as it comes along with a key that is copied
	c.click(".sign-in button[type=submit]")
	c.shows("#key-error", "a sign that no key has")
	c.signIn(config.DevKey)

	const rule = `document.querySelector("#rule").value`
	c.view("segments/auto", "auto")
	c.until(`document.querySelector("#rule")`)
	before := c.text(rule)
	c.view("segments/+new", "New segment")
	c.set("#segment-id", "auto")
	c.set("#rule", `count(event.section == "stamps", "30d") >= 1`)
	c.click("#save")
	c.shows(".field-error", "There is a segment auto already")
	c.view("segments/auto", "auto")
	c.until(`document.querySelector("#rule")`)
	if after := c.text(rule); after != before || before == "" {
		t.Errorf("a new segment of its name made %q of %q", after, before)
	}

	// A change of a rule that is being filled starts from all of that one, not from the one that answers.
	c.text(`(() => {
		const real = window.fetch;
		window.fetch = (u, o) => {
			if (u !== "/v1/segments/sport?client=demo" && u !== "/v1/segments/sport") return real(u, o);
			if (o?.method === "PUT") window.put = o.body;
			return Promise.resolve(new Response(JSON.stringify({ id: "sport", scope: "identity", when: "count(true) >= 1", backfill: false, version: 3, size: 60, filled: true,
				next: { scope: "user", when: "count(true) >= 2", version: 4, filled: false, progress: 0.5 } }), { headers: { "Content-Type": "application/json" } }));
		};
	})()`)
	c.view("segments/sport", "sport")
	c.shows(".filling", "The new rule is being filled")
	c.click("#save")
	c.until(`window.put`)
	if got, want := c.text(`put`), `{"scope":"user","when":"count(true) >= 2","backfill":true}`; got != want {
		t.Errorf("saved as %s, want %s", got, want)
	}

	c.view("receipts", "Receipts")
	c.set("#pasted", "null")
	c.click("form.stack button")
	c.shows(".field-error", "this is no receipt")

	c.view("overlap", "Overlap")
	c.until(`document.querySelectorAll(".choose label").length === 200`)
	c.shows(".choose", "And 5 more")
	c.set(".choose input[type=search]", "zz-199")
	c.until(`document.querySelectorAll(".choose label").length === 1`)
	c.click(".choose label input")
	c.shows("table.heatmap", "zz-199")

	// A feed that breaks off, as with a node that is killed.
	c.text(`(() => { const real = window.fetch; window.fetch = (u, o) => String(u).startsWith("/v1/live") ? Promise.resolve(new Response(new ReadableStream({ start(s) { setTimeout(() => s.error(new TypeError("network error")), 100); } }))) : real(u, o); })()`)
	c.view("live", "Live events")
	c.shows(".state.failed", "The node did not answer")
	c.quiet()
}

func TestConsoleAddressesInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir())
	furnish(t, n)
	c := openConsole(t, n)
	c.signIn(config.DevAdminKey)

	const odd = "user/partner.demo:50%off"
	c.view("count", "Count")
	c.view(odd, "User graph")
	c.do(chromedp.Reload())
	c.shows("h1", "User graph")
	c.until(`document.querySelector("#nav") && document.querySelector("#identity").value === "partner.demo:50%off"`)

	c.view("count", "Count")
	c.view("user/browser%3Ame1", "User graph")
	c.text(`(() => { const real = window.fetch; window.posts = 0; window.fetch = (...a) => { if (a[1]?.method === "POST") window.posts++; return real(...a); }; })()`)
	c.click("[data-optout='browser:me1']")
	c.until(`document.querySelector("dialog[open]")`)
	c.text(`history.back()`)
	c.shows("h1", "Count")
	c.until(`!document.querySelector("dialog")`)
	c.until(`posts === 0`)

	// One that is confirmed is done, though the view is left before the answer.
	c.view("user/browser%3Aphone1", "User graph")
	c.holdBack("/v1/optouts")
	c.click("[data-optout='browser:phone1']")
	c.until(`document.querySelector("dialog[open]")`)
	c.click("dialog button[value=yes]")
	c.until(`window.release`)
	c.view("count", "Count")
	c.text(`release()`)
	c.shows(".toast.ok", "the receipt is under Receipts")
	if bad := c.text(`document.querySelector(".toast.bad")?.textContent`); bad != "" && bad != "undefined" {
		t.Errorf("an opt-out that was done is told as %s", bad)
	}

	// So it is when the session ends.
	c.view("user/browser%3Ame1", "User graph")
	c.click("[data-optout='browser:me1']")
	c.until(`document.querySelector("dialog[open]")`)
	c.text(`document.dispatchEvent(new CustomEvent("kith-signed-out"))`)
	c.until(`document.querySelector("#key") && !document.querySelector("dialog")`)
	c.quiet()
}
