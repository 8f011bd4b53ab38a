package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// This file plans a town: identities, and who is seen together with whom.

// graphTown is what was planned and what was sent. Identities are numbers here.
type graphTown struct {
	chance *rand.Rand
	names  []string
	acts   []townAct
	links  []townLink

	centres []int32 // hubs and kiosks
}

// townAct is an event, of one identity or of two that are seen together.
type townAct struct {
	who, with int32 // with: nobody is noOne
	section   string
	acked     bool
}

const noOne = -1

// townLink is a link that is asked for.
type townLink struct {
	a, b   int32
	answer string // linked, or the reason against it
}

// townKinds are the kinds of identities, and how often there is one.
var townKinds = []string{"browser", "browser", "browser", "account", "account", "aaid", "idfa", "stat"}

func isTownDevice(name string) bool {
	return strings.HasPrefix(name, "browser:") || strings.HasPrefix(name, "aaid:") || strings.HasPrefix(name, "idfa:")
}

// settle adds an identity.
func (w *graphTown) settle(kind string) int32 {
	w.names = append(w.names, fmt.Sprintf("%s:t%07d-%04x", kind, len(w.names), w.chance.Uint32N(1<<16)))
	return int32(len(w.names) - 1)
}

func (w *graphTown) anybody() int32 { return w.settle(townKinds[w.chance.IntN(len(townKinds))]) }

func (w *graphTown) one(of []int32) int32 { return of[w.chance.IntN(len(of))] }

func (w *graphTown) section() string {
	return []string{"auto", "auto", "sport", "news"}[w.chance.IntN(4)]
}

// meet plans an edge: half of them are events of both, a few are asked for too.
func (w *graphTown) meet(a, b int32) {
	if w.chance.IntN(2) == 0 {
		a, b = b, a
	}
	way := w.chance.IntN(100)
	if way < 50 || way == 99 {
		w.acts = append(w.acts, townAct{who: a, with: b, section: w.section()})
	}
	if way >= 50 {
		w.links = append(w.links, townLink{a: a, b: b})
	}
}

// planTown makes a town of n identities: kiosks and hubs, chains, large users
// that a late edge joins, and for the most part pairs and triples.
func planTown(chance *rand.Rand, n int) *graphTown {
	w := &graphTown{chance: chance}
	w.star(400)
	for range max(1, n/32_500) {
		w.star(50 + chance.IntN(351))
	}
	for range max(4, n/6500) {
		w.star(28 + chance.IntN(12)) // about what one may have
		w.star(8 + chance.IntN(20))
	}
	for range max(3, n/16_000) {
		w.chain(50 + chance.IntN(50))
		w.crowd()
	}
	for len(w.names) < n {
		w.household()
	}
	for i := range w.names {
		for k := chance.IntN(10); k >= 5; k -= 4 { // half of them once, a tenth twice
			w.acts = append(w.acts, townAct{who: int32(i), with: noOne, section: w.section()})
		}
	}
	chance.Shuffle(len(w.acts), func(i, k int) { w.acts[i], w.acts[k] = w.acts[k], w.acts[i] })
	chance.Shuffle(len(w.links), func(i, k int) { w.links[i], w.links[k] = w.links[k], w.links[i] })
	return w
}

// star is an account with many log-ins. Some of those who log in have an
// account of their own too.
func (w *graphTown) star(logins int) {
	centre := w.settle("account")
	w.centres = append(w.centres, centre)
	for range logins {
		b := w.settle("browser")
		w.meet(centre, b)
		if w.chance.IntN(3) == 0 {
			w.meet(b, w.settle("account"))
		}
	}
}

func (w *graphTown) chain(length int) {
	last := w.anybody()
	for range length {
		next := w.anybody()
		w.meet(last, next)
		last = next
	}
}

// crowd is four large users and some edges between them.
func (w *graphTown) crowd() {
	var groups [4][]int32
	for g := range groups {
		groups[g] = []int32{w.anybody()}
		for range 15 + w.chance.IntN(45) {
			p := w.one(groups[g])
			q := w.anybody()
			w.meet(p, q)
			groups[g] = append(groups[g], q)
		}
	}
	for range 6 {
		a, b := w.chance.IntN(4), w.chance.IntN(4)
		if p, q := w.one(groups[a]), w.one(groups[b]); p != q {
			w.meet(p, q)
		}
	}
}

// household is a small user: a pair, a triple or four of them.
func (w *graphTown) household() {
	a, b := w.settle("browser"), w.anybody()
	w.meet(a, b)
	switch k := w.chance.IntN(100); {
	case k < 50:
	case k < 85:
		w.meet(w.one([]int32{a, b}), w.anybody())
	case k < 95:
		c := w.anybody()
		w.meet(b, c)
		w.meet(a, c)
	default:
		c := w.anybody()
		w.meet(b, c)
		w.meet(c, w.anybody())
	}
}
