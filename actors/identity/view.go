package identity

import (
	"kith/proto"
	"kith/segments"
)

// View is what look-ups see of a node. It is never changed after it was made.
type View struct {
	Ordinal proto.Ordinal
	Clients []ClientView // by client
}

// ClientView is one client's part of a View.
type ClientView struct {
	Client  proto.ClientID
	Members []segments.Membership // those in, and those that time will let in
}

// Client is the part of one client, nil if it knows nothing of the node.
func (v *View) Client(id proto.ClientID) *ClientView {
	if v == nil {
		return nil
	}
	for i := range v.Clients {
		if v.Clients[i].Client == id {
			return &v.Clients[i]
		}
	}
	return nil
}

// In reports whether the membership holds at now: what it was, flipped once
// the time has come at which it changes by itself.
func In(m segments.Membership, now proto.Millis) bool {
	return m.In != (m.Next != 0 && m.Next <= now)
}

// View makes the view of the state.
func (s *State) View() *View {
	n := 0
	for i := range s.Facts {
		n += len(s.Facts[i].Memory.Memberships())
	}
	v := &View{Ordinal: s.Ordinal, Clients: make([]ClientView, len(s.Facts))}
	all := make([]segments.Membership, 0, n)
	for i := range s.Facts {
		from := len(all)
		all = append(all, s.Facts[i].Memory.Memberships()...)
		v.Clients[i] = ClientView{Client: s.Facts[i].Client, Members: all[from:len(all):len(all)]}
	}
	return v
}
