package identity

import (
	"kith/proto"
	"kith/segments"
)

// View is what look-ups see of a node. It is never changed after it was made.
type View struct {
	Ordinal  proto.Ordinal
	OptedOut bool
	Follows  bool         // for scope user, User counts and not what is in Clients
	Clients  []ClientView // by client
	User     []ClientView // by client
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
	return clientView(v.Clients, id)
}

// OfUser is the client's part of what the node's user comes to, nil if there
// is none.
func (v *View) OfUser(id proto.ClientID) *ClientView {
	if v == nil || !v.Follows {
		return nil
	}
	return clientView(v.User, id)
}

func clientView(list []ClientView, id proto.ClientID) *ClientView {
	for i := range list {
		if list[i].Client == id {
			return &list[i]
		}
	}
	return nil
}

// In reports whether the membership holds at now: what it was, flipped once
// the time has come at which it changes by itself.
func In(m segments.Membership, now proto.Millis) bool {
	return m.In != (m.Next != 0 && m.Next <= now)
}

// View makes the view of the state, nil if nothing is known.
func (s *State) View() *View {
	if !s.Named && !s.Dark() {
		return nil
	}
	n := 0
	for i := range s.Facts {
		n += len(s.Facts[i].Memory.Memberships())
	}
	for i := range s.User {
		n += len(s.User[i].Members)
	}
	v := &View{Ordinal: s.Ordinal, OptedOut: s.Dark(), Follows: s.Follows, Clients: make([]ClientView, len(s.Facts))}
	all := make([]segments.Membership, 0, n)
	part := func(c proto.ClientID, list []segments.Membership) ClientView {
		from := len(all)
		all = append(all, list...)
		return ClientView{Client: c, Members: all[from:len(all):len(all)]}
	}
	for i := range s.Facts {
		v.Clients[i] = part(s.Facts[i].Client, s.Facts[i].Memory.Memberships())
	}
	for i := range s.User {
		v.User = append(v.User, part(s.User[i].Client, s.User[i].Members))
	}
	return v
}
