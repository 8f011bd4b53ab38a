package gateway

import (
	"net/http"

	"kith/proto"
)

// sizesDays is how many days are answered if from is not given.
const sizesDays = 30

// getSizes answers with how many were in a segment at the end of each day.
func (g *Gateway) getSizes(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.segmentOf(r, who)
	if err != nil {
		return err
	}
	to, err := dayOf(r, "to", g.millis().Day())
	if err != nil {
		return err
	}
	from, err := dayOf(r, "from", to-min(to, sizesDays-1))
	if err != nil {
		return err
	}
	if from > to {
		return proto.Errorf(proto.CodeInvalid, "from %s is after to %s: exchange them", from, to)
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

// dayOf reads a day of the query.
func dayOf(r *http.Request, name string, otherwise proto.Day) (proto.Day, error) {
	v := queryValue(r.URL.RawQuery, name)
	if v == "" {
		return otherwise, nil
	}
	return proto.ParseDay(v)
}
