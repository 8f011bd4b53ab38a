package gateway

import (
	"net/http"

	"kith/proto"
)

// This file is a client's account as a whole: told to it, and ended.

func (g *Gateway) listClients(w http.ResponseWriter, _ *http.Request, _ proto.Principal) error {
	list := g.deps.Accounts.Clients()
	if list == nil {
		list = []proto.ClientInfo{}
	}
	return writeValue(w, http.StatusOK, map[string]any{"clients": list})
}

func noClient(name proto.ClientName) error {
	return proto.Errorf(proto.CodeNotFound, "there is no client %q: GET /v1/clients (`kith client list`) lists them", name)
}

// exportClient streams all that a client holds, as lines of JSON.
func (g *Gateway) exportClient(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	name, err := proto.ParseClientName(r.PathValue("name"))
	if err != nil {
		return err
	}
	client, ok := g.deps.Accounts.Client(name)
	if !ok {
		return noClient(name)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header()["Cache-Control"] = noStore
	return g.stream(w, "the export of a client", func(out *begun) error { return g.deps.Holdings.ExportClient(r.Context(), client, out) })
}

// eraseClient ends a client. The caller's going away does not keep it: its data
// are taken out step by step, whoever waits.
func (g *Gateway) eraseClient(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	name, err := proto.ParseClientName(r.PathValue("name"))
	if err != nil {
		return err
	}
	ctx, cancel := cutContext(r.Context())
	defer cancel()
	x, err := g.deps.Holdings.EraseClient(ctx, name)
	if err != nil {
		return err
	}
	return writeClientErasure(w, x)
}

func (g *Gateway) getClientErasure(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	name, err := proto.ParseClientName(r.PathValue("name"))
	if err != nil {
		return err
	}
	x, ok := g.deps.Holdings.ClientErasure(name)
	if !ok {
		return proto.Errorf(proto.CodeNotFound, "no client %q was erased: DELETE /v1/clients/%s does", name, name)
	}
	return writeClientErasure(w, x)
}

// writeClientErasure answers 202 while something is left.
func writeClientErasure(w http.ResponseWriter, x proto.ClientErasure) error {
	status := http.StatusOK
	if !x.Erased {
		status = http.StatusAccepted
	}
	return writeValue(w, status, x)
}
