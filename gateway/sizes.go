package gateway

import (
	"net/http"

	"kith/proto"
)

// daysAnswered is how many days are answered if from is not given.
const daysAnswered = 30

// getSizes answers with how many were in a segment at the end of each day.
func (g *Gateway) getSizes(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.segmentOf(r, who)
	if err != nil {
		return err
	}
	from, to, err := g.daysOf(r)
	if err != nil {
		return err
	}
	if from > to {
		return proto.Errorf(proto.CodeInvalid, "from %s is after to %s: exchange them", from, to)
	}
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	list, err := g.deps.Audiences.Sizes(client, id, from, to)
	if err != nil {
		return err
	}
	for i := range list {
		list[i].Identities, list[i].Below = g.shown(who, client, list[i].Identities)
	}
	return writeValue(w, http.StatusOK, map[string]any{"id": id, "sizes": list})
}

// daysOf reads the days from and to of the query.
func (g *Gateway) daysOf(r *http.Request) (from, to proto.Day, err error) {
	if to, err = dayOf(r, "to", g.millis().Day()); err == nil {
		from, err = dayOf(r, "from", firstDay(to))
	}
	return from, to, err
}

// firstDay is the first day that is answered if only the last is given.
func firstDay(to proto.Day) proto.Day { return to - min(to, daysAnswered-1) }

// dayOf reads a day of the query.
func dayOf(r *http.Request, name string, otherwise proto.Day) (proto.Day, error) {
	v := queryValue(r.URL.RawQuery, name)
	if v == "" {
		return otherwise, nil
	}
	return proto.ParseDay(v)
}
