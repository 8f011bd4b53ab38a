package segments

import (
	"cmp"
	"slices"

	"kith/proto"
)

// Union judges p's rules of scope user over all identities of a user of which
// the client holds facts; shared has what AppendShared packed of each, in any
// order, and devices is how many of the user's identities are browsers or
// devices. It appends to dst, by key, the segments that the user is in or will
// enter by time; their Since is 0.
//
// A match of any identity is one of the user's. A condition on a trait holds
// if the trait of some identity satisfies it: two conditions on one trait may
// be satisfied by two identities. What lies after now, on another clock, has
// happened. Where an identity has not been brought up to a newer rule yet, the
// rule is judged by what it gives. Without identities there is no user, and no
// segment. CodeCorrupt, with dst as it was, if something shared is malformed.
func (ev *Evaluator) Union(p *Program, shared []string, devices int, now proto.Millis, dst []Membership) ([]Membership, error) {
	if len(shared) == 0 {
		return dst, nil
	}
	defer ev.SetDevices(ev.devices)
	ev.devices = devices
	if err := ev.unite(p, shared, now); err != nil {
		return dst, err
	}
	for _, ms := range ev.union.memory.members {
		if p.UserScope(ms.Key) {
			ms.Since = 0
			dst = append(dst, ms)
		}
	}
	ev.union.release()
	return dst, nil
}

// unite makes the union's memory of what is shared and judges it.
func (ev *Evaluator) unite(p *Program, shared []string, now proto.Millis) error {
	u := &ev.union
	u.release()
	for _, b := range shared {
		if err := u.read(p, b); err != nil {
			u.release()
			return err
		}
	}
	ev.begin(p)
	ev.joinMatches()
	u.joinTraits()
	ev.sharing = true
	ev.judge(p, &u.memory, now)
	ev.sharing = false
	return nil
}

// joinMatches leaves the predicates that there is something of in ev.matched.
func (ev *Evaluator) joinMatches() {
	u := &ev.union
	slices.SortFunc(u.parts, func(a, b part) int { return cmp.Compare(a.id, b.id) })
	m := &u.memory
	for i := range u.parts {
		x := &u.parts[i]
		if n := len(m.matches); n > 0 && m.matches[n-1].id == x.id {
			u.join(&m.matches[n-1], &x.matches, x.track.predicate, &x.track.shared)
			continue
		}
		m.matches = append(m.matches, x.view(&x.track.shared))
		ev.matched = append(ev.matched, x.track)
	}
}

func (u *userUnion) joinTraits() {
	slices.SortFunc(u.memory.traits, func(a, b proto.Prop) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), compareValues(a.Value, b.Value))
	})
	u.memory.traits = slices.CompactFunc(u.memory.traits, proto.Prop.Same)
}

// judge gives m, which has facts and no memberships yet, those of the shared
// rules: the ones that hold without facts as they are, and what facts or
// devices may make another than that evaluated.
func (ev *Evaluator) judge(p *Program, m *Memory, now proto.Millis) {
	m.version = p.version
	for _, s := range p.userBase {
		m.members = append(m.members, Membership{Key: s.def.Key, In: true})
	}
	for _, q := range ev.matched {
		ev.markAll(m, q.rules)
	}
	for i := range m.traits {
		if i == 0 || m.traits[i].Key != m.traits[i-1].Key {
			ev.markAll(m, p.traits[m.traits[i].Key].rules)
		}
	}
	if ev.devices != 0 {
		ev.markAll(m, p.counting)
	}
	ev.run(m, now, &ev.union.delta)
	ev.union.delta.Reset()
}
