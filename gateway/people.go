package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"kith/proto"
)

// This file is the two pages that people meet: /optout and /choices. They do all
// that they do without script; with it, they stay where they are.

// optOutPage shows how the visitor stands, with a button for the opposite.
func (g *Gateway) optOutPage(w http.ResponseWriter, r *http.Request) error {
	v := g.visitOf(r)
	x := g.view(r, &v, true)
	g.stand(r, &v, &x)
	if x.Standing.Receipt != nil { // which was not there when the button was pressed
		x.Outcome = &outcome{Text: x.W.NowOut, Receipt: receiptText(x.Standing.Receipt)}
		x.Uncut = false
		if !unseen(r) { // by the cookie the receipt is had again
			g.dropBrowser(w, &v)
			v.leave()
			x.Token = g.formToken(&v)
		}
	}
	g.keep(w, v, "")
	return g.show(w, http.StatusOK, &x)
}

// unseen reports whether nobody may come to see the page that a request asks for: only
// its headers are asked for, or the browser fetches it ahead.
func unseen(r *http.Request) bool {
	return r.Method == http.MethodHead || strings.Contains(r.Header.Get("Sec-Purpose")+r.Header.Get("Purpose"), "prefetch")
}

// optOutForm takes the page's button.
func (g *Gateway) optOutForm(w http.ResponseWriter, r *http.Request) error {
	v := g.visitOf(r)
	form, err := g.readForm(w, r, &v)
	x := g.view(r, &v, true)
	status := http.StatusOK
	switch {
	case err != nil:
		status = x.failed(err)
	case form.Get("do") == "out":
		g.setOptOut(w, &v, true)
		carried := len(v.toCut()) > 0
		cut, err := g.cutOwn(w, r, &v, form.Get("everywhere") == "1")
		v.cookie = true
		v.heedBrowser()
		if err != nil {
			status = x.failed(err)
			break
		}
		x.Outcome = x.W.ofCut(&v, carried, &cut)
	case form.Get("do") == "in":
		g.liftOwn(w, r, &v)
		x.Outcome = &outcome{Text: x.W.NowIn}
	default:
		status = x.failed(proto.Errorf(proto.CodeInvalid, "the form does nothing"))
	}
	g.stand(r, &v, &x)
	if x.Outcome != nil && !x.Outcome.Bad && form.Get("do") == "in" && x.Standing.OptedOut {
		x.Outcome.Text = x.W.StillOut
	}
	x.Token = g.formToken(&v)
	return g.show(w, status, &x)
}

// ofCut is what came of an opt-out of the browser's own. carried says whether its cookies
// named anything to cut. If not, what lies under other sites' pages was not sent, and what
// was cut is of statistical ids, which are not of this browser alone.
func (w *words) ofCut(v *visit, carried bool, cut *ownOptOut) *outcome {
	x := &outcome{Text: w.NowOut, Receipt: receiptText(cut.Receipt)}
	switch {
	case v.endless:
		x.Text += " " + w.CrowdedRest
	case !carried && cut.going():
		x = &outcome{Text: w.UnseenOut + " " + w.StatisticalGoing}
	case !carried:
		x.Text = w.UnseenOut
	case cut.going(): // by the cookie, which stays, the receipt is had
		x = &outcome{Text: w.NowGoing + " " + w.GoingAgain}
	}
	return x
}

// ofChild is ofCut of who said to be a child.
func (w *words) ofChild(v *visit, carried bool, cut *ownOptOut) *outcome {
	x := w.ofCut(v, carried, cut)
	x.Text = w.NowChild + " " + x.Text
	if carried && !cut.going() {
		x.Text += " " + w.ChildLinked
	}
	return x
}

// ofErasure is what came of an erasure of the browser's own, likewise.
func (w *words) ofErasure(v *visit, carried bool, answer *ownErasure) *outcome {
	x := &outcome{Text: w.Erased, Receipt: receiptText(answer.Receipt)}
	switch {
	case v.endless:
		x.Text += " " + w.CrowdedRest
	case !answer.Erased:
		x.Text = w.UnseenErased
	case !carried && !answer.Final:
		x = &outcome{Text: w.StatisticalGoing + " " + w.UnseenRest}
	case !carried:
		x.Text = w.StatisticalGone + " " + w.UnseenRest
	case !answer.Final:
		x = &outcome{Text: w.ErasedGoing}
	}
	return x
}

// choicesPage shows what is held of the visitor, and what they may say of
// themselves.
func (g *Gateway) choicesPage(w http.ResponseWriter, r *http.Request) error {
	v := g.visitOf(r)
	x := g.view(r, &v, false)
	g.stand(r, &v, &x)
	g.keep(w, v, "")
	return g.showChoices(w, r, http.StatusOK, &v, &x)
}

// choicesForm takes one of the page's forms.
func (g *Gateway) choicesForm(w http.ResponseWriter, r *http.Request) error {
	v := g.visitOf(r)
	form, err := g.readForm(w, r, &v)
	x := g.view(r, &v, false)
	status, carried := http.StatusOK, len(v.toCut()) > 0
	switch {
	case err != nil:
		status = x.failed(err)
	case form.Get("do") == "save":
		d := declarationOf(form)
		d.Client = x.Client
		if d.empty() {
			x.Outcome, status = &outcome{Bad: true, Text: x.W.NothingChosen}, http.StatusBadRequest
			break
		}
		answer, err := g.declare(w, r, &v, d)
		switch {
		case err != nil:
			status = x.failed(err)
		case d.child():
			x.Outcome = x.W.ofChild(&v, carried, &ownOptOut{Final: answer.Final, Receipt: answer.Receipt})
		default:
			x.Outcome = &outcome{Text: x.W.Saved}
			// What was said is to be seen; where that takes long, later.
			_ = g.wait(r.Context(), answer.Position)
		}
	case form.Get("do") == "erase":
		answer, err := g.forgetOwn(w, r, &v)
		if err != nil {
			status = x.failed(err)
			break
		}
		x.Outcome = x.W.ofErasure(&v, carried, &answer)
	default:
		status = x.failed(proto.Errorf(proto.CodeInvalid, "the form does nothing"))
	}
	x.Token = g.formToken(&v)
	g.stand(r, &v, &x)
	return g.showChoices(w, r, status, &v, &x)
}

// showChoices adds what is held: of the client that the address names, or else
// which clients hold something.
func (g *Gateway) showChoices(w http.ResponseWriter, r *http.Request, status int, v *visit, x *pageView) error {
	x.Several, x.Crowded = len(v.several) > 0, v.crowded
	x.Unproven, x.Barred = g.proofsMissing(v)
	said := x.Outcome != nil // what came of a form stays, whatever can be shown
	if x.Client == "" {
		if failed := g.addHolders(v, x); failed && !said {
			status = http.StatusServiceUnavailable
		}
		return g.show(w, status, x)
	}
	client, err := g.clientNamed(x.Client)
	known := err == nil
	if known {
		err = g.addHeld(r, client, v, x)
	}
	if err != nil { // that one cannot be shown does not mean that nobody holds anything
		x.Client = ""
		g.addHolders(v, x)
		switch {
		case !said && known:
			status, x.Outcome = statusOf(proto.CodeOf(err)), &outcome{Bad: true, Text: x.W.NotShown}
		case !said:
			status = x.failed(err)
		case known:
			x.Outcome.Text += " " + x.W.NotShown
		}
	}
	return g.show(w, status, x)
}

// addHolders adds the clients that hold something of the visitor's browser, as links,
// and reports whether some could not be asked. Others are not named: whose data are
// here is nobody's affair but theirs.
func (g *Gateway) addHolders(v *visit, x *pageView) (failed bool) {
	x.Clients = nil
	for _, c := range g.deps.Accounts.Clients() {
		if slices.ContainsFunc(g.own(v, v.claims()), func(id proto.Identity) bool {
			seen, err := g.deps.Memberships.Seen(c, id)
			failed = failed || err != nil
			return err == nil && seen.Known && !seen.OptedOut
		}) {
			x.Clients = append(x.Clients, pageLink{Name: string(c.Name), Address: pageQuery(x.W.Lang, string(c.Name))})
		}
	}
	slices.SortFunc(x.Clients, func(a, b pageLink) int { return strings.Compare(a.Name, b.Name) })
	x.Unasked = failed || v.crowded
	return failed
}

// eventsShown bounds the events on a page.
const eventsShown = 20

// heldEvents are a history's newest events, and how many it has.
type heldEvents struct {
	newest []proto.HistoryEvent // the newest first; of the same time the one that came first
	total  int
}

// add takes one more; now and then it is enough for a while.
func (h *heldEvents) add(t proto.Millis, e *proto.EventBody) (enough bool) {
	h.total++
	at := t.Time()
	i := len(h.newest)
	for i > 0 && h.newest[i-1].Time.Before(at) {
		i--
	}
	if i < eventsShown {
		h.newest = slices.Insert(h.newest, i, proto.HistoryEvent{Time: at, Event: strings.Clone(e.Name), URL: strings.Clone(e.URL)})
		h.newest = h.newest[:min(len(h.newest), eventsShown)]
	}
	return h.total%recordEventsMax == 0
}

// addHeld adds what the client holds of the visitor.
func (g *Gateway) addHeld(r *http.Request, client proto.ClientInfo, v *visit, x *pageView) error {
	var record proto.IdentityRecord
	var events heldEvents
	if own := g.ownBrowser(v); own != "" {
		within, cancel := context.WithTimeout(r.Context(), choicesFor)
		defer cancel()
		open, err := g.openRecord(r.Context(), &g.records.public, g.sharesOf(r, own), client, own)
		if err != nil {
			return err
		}
		defer open.close()
		if record = open.IdentityRecord; record.Known {
			if err := open.walk(within, events.add, func() error { return nil }); err != nil {
				return err
			}
		}
		open.close()
	}
	x.Ages = pageChoices(ageBands, x.W.Ages, record.Traits[traitAge], x.W.Unsaid)
	x.Genders = pageChoices(genders, x.W.Genders, record.Traits[traitGender], x.W.Unsaid)
	for name, value := range record.Traits {
		said := name == traitAge && offered(ageBands, value) || name == traitGender && offered(genders, value)
		if !said || x.Standing.OptedOut { // when there is no form of what is said
			x.Traits = append(x.Traits, pageTrait{name, traitText(value), proto.ReservedTrait(name)})
		}
	}
	slices.SortFunc(x.Traits, func(a, b pageTrait) int { return strings.Compare(a.Name, b.Name) })
	if !record.Known {
		return nil
	}
	h := &pageHeld{
		First: pageTime(record.FirstSeen), Last: pageTime(record.LastSeen), Segments: record.Segments, Total: events.total,
		Truncated: record.Truncated, Record: "v1/me" + pageQuery(x.W.Lang, string(client.Name)),
	}
	for _, e := range events.newest {
		h.Events = append(h.Events, pageEvent{pageTime(&e.Time), e.Event, e.URL})
	}
	x.Held = h
	return nil
}

// offered reports whether a trait's value is one that people may choose.
func offered(values []string, value any) bool {
	said, ok := value.(string)
	return ok && slices.Contains(values, said)
}

// pageChoices are the values that may be chosen, and none, which takes back. Where
// something else is held nothing is chosen: the form leaves it as it is.
func pageChoices(values []string, texts map[string]string, held any, unsaid string) []pageChoice {
	list := []pageChoice{{"", unsaid, held == nil}}
	for _, v := range values {
		list = append(list, pageChoice{v, texts[v], held == v})
	}
	return list
}

// traitText is a trait's value as people write it.
func traitText(value any) string {
	if n, ok := value.(float64); ok {
		return strconv.FormatFloat(n, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

func pageTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// wordsFor are the words of the language that is asked for, or else of the one that
// the browser likes best.
func wordsFor(asked, accepted string) *words {
	for _, w := range languages {
		if w.Lang == asked {
			return w
		}
	}
	best, quality := languages[0], 0.0
	for part := range strings.SplitSeq(accepted[:min(len(accepted), 512)], ",") {
		tag, parameter, _ := strings.Cut(part, ";")
		primary, _, _ := strings.Cut(strings.TrimSpace(tag), "-")
		q := 1.0
		if s, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q="); ok {
			q, _ = strconv.ParseFloat(s, 64) // what is no number is 0: not wanted
		}
		for _, w := range languages {
			if strings.EqualFold(w.Lang, primary) && q > quality {
				best, quality = w, q
			}
		}
	}
	return best
}
