package gateway

import (
	"net/http"
	"slices"

	"kith/proto"
)

// audienceOf is the client and the saved audience that a request is about.
func (g *Gateway) audienceOf(r *http.Request, who proto.Principal) (proto.ClientInfo, proto.AudienceID, error) {
	id, err := proto.ParseAudienceID(r.PathValue("id"))
	if err != nil {
		return proto.ClientInfo{}, "", err
	}
	client, err := g.clientOf(who, r)
	return client, id, err
}

func (g *Gateway) listAudiences(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	list := g.deps.Saved.SavedAudiences(client)
	if list == nil {
		list = []proto.AudienceSpec{}
	}
	return writeValue(w, http.StatusOK, map[string]any{"audiences": list})
}

func (g *Gateway) getAudience(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.audienceOf(r, who)
	if err != nil {
		return err
	}
	s, ok := g.deps.Saved.SavedAudience(client, id)
	if !ok {
		return proto.Errorf(proto.CodeNotFound, "there is no saved audience %q: GET /v1/audiences (`kith audience list`) lists them", id)
	}
	return writeValue(w, http.StatusOK, s)
}

// audienceRoutes are names that no audience can have, for the routes that are there.
var audienceRoutes = []string{"count", "export", "overlap"}

func (g *Gateway) putAudience(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.audienceOf(r, who)
	if err != nil {
		return err
	}
	var s proto.AudienceSpec
	if err := g.readValue(w, r, &s); err != nil {
		return err
	}
	switch {
	case s.ID != "" && s.ID != id:
		return proto.Errorf(proto.CodeInvalid, "the body is for audience %q, the path for %q: leave id out", clip(string(s.ID)), id)
	case slices.Contains(audienceRoutes, string(id)):
		return proto.Errorf(proto.CodeInvalid, "an audience cannot be saved as %q, which is a route of its own: choose another name", id)
	case s.Expr == "":
		return proto.Errorf(proto.CodeExpr, `the body has no expr: send {"expr":"auto & !owners"}`)
	}
	if err = g.refuseLabel(client, keptAudience, string(id)); err != nil {
		return err
	}
	s.ID = id
	if s, err = g.deps.Saved.SaveAudience(defining(r, who), client, s); err != nil {
		return g.countLimited(err)
	}
	return writeValue(w, http.StatusOK, s)
}

func (g *Gateway) deleteAudience(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.audienceOf(r, who)
	if err != nil {
		return err
	}
	if err := g.deps.Saved.DropAudience(r.Context(), client, id); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, []byte(`{"deleted":true}`+"\n"))
	return nil
}
