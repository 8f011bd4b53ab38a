package gateway

import (
	"context"
	"net/http"

	"kith/proto"
)

// countRequest is the body of a count.
type countRequest struct {
	Expr   string `json:"expr"`
	Unit   string `json:"unit"`
	Client string `json:"client"` // as ?client=
	After  string `json:"after"`  // as ?after=
}

// exprBytesMax bounds an audience expression.
const exprBytesMax = 64 << 10

func (g *Gateway) postCount(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	var x countRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	if v := queryValue(r.URL.RawQuery, "client"); v != "" {
		x.Client = v
	}
	if v := queryValue(r.URL.RawQuery, "after"); v != "" {
		x.After = v
	}
	n, err := g.count(r.Context(), who, x)
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, n)
}

// count sizes an audience and applies the floor: only an admin key sees less.
func (g *Gateway) count(ctx context.Context, who proto.Principal, x countRequest) (proto.Count, error) {
	client, err := g.clientFor(who, x.Client)
	if err != nil {
		return proto.Count{}, err
	}
	switch {
	case x.Expr == "":
		return proto.Count{}, proto.Errorf(proto.CodeExpr, `the body has no expr: send {"expr":"auto & !owners"}`)
	case len(x.Expr) > exprBytesMax:
		return proto.Count{}, proto.Errorf(proto.CodeExpr, "expr is over %d bytes", exprBytesMax)
	case x.Unit == "":
		x.Unit = "identities"
	case x.Unit != "identities" && x.Unit != "users":
		return proto.Count{}, proto.Errorf(proto.CodeInvalid, "unit %q is unknown: use identities or users", clip(x.Unit))
	}
	if err := g.wait(ctx, x.After); err != nil {
		return proto.Count{}, err
	}
	n, err := g.deps.Memberships.Count(ctx, client, x.Expr, x.Unit)
	if err != nil {
		return proto.Count{}, err
	}
	if floor := g.floor(client); who.Role != proto.RoleAdmin && n.Count != nil && *n.Count < uint64(floor) {
		n.Count, n.Below = nil, floor
	}
	return n, nil
}
