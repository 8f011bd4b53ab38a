package gateway

import (
	"net/http"
	"sync"
	"time"

	"kith/internal/exports"
	"kith/proto"
)

const (
	// exportBodyMax bounds the body of a request for an export: a delta's has
	// the earlier sets in it.
	exportBodyMax = 64 << 20
	// exportsMax bounds the exports under way, ownExportsMax those by a client's
	// keys: a slow reader may hold one for hours.
	exportsMax    = 4
	ownExportsMax = 2
	// stallMax is how long a reader may take for each stallBytes.
	stallMax   = time.Minute
	stallBytes = 256 << 10
)

// exporting counts the exports under way.
type exporting struct {
	mu  sync.Mutex
	all int
	by  map[proto.ClientName]int // whose key asked; "" for operators
}

// begin counts one more, or says why not. After nil, end is due.
func (e *exporting) begin(client proto.ClientName) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all >= exportsMax {
		return proto.Errorf(proto.CodeOverloaded, "%d exports are under way: ask again when one is done", exportsMax)
	}
	if client != "" && e.by[client] >= ownExportsMax {
		return proto.Errorf(proto.CodeOverloaded, "%d exports of client %s are under way: ask again when one is done", ownExportsMax, client)
	}
	if e.by == nil {
		e.by = map[proto.ClientName]int{}
	}
	e.all++
	e.by[client]++
	return nil
}

func (e *exporting) end(client proto.ClientName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all--
	if e.by[client]--; e.by[client] == 0 {
		delete(e.by, client)
	}
}

// postExport streams an audience as a tar. It counts as under way when its body
// has come, which may take long.
func (g *Gateway) postExport(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	body, err := g.readJSONUpTo(w, r, max(exportBodyMax, g.c.BodyBytesMax))
	if err != nil {
		return err
	}
	if err := g.exporting.begin(who.Client); err != nil {
		return err
	}
	defer g.exporting.end(who.Client)
	x, client, err := g.readExport(r, who, body)
	if err != nil {
		return err
	}
	a, err := g.deps.Exports.OpenAudience(r.Context(), client, x)
	if err != nil {
		return err
	}
	defer a.Names.Close()
	if err := g.applyFloor(who, client, a, x.Since != nil); err != nil {
		return err
	}
	m := &a.Manifest
	m.Kith, m.Format, m.Dictionary = g.c.Version, proto.ExportFormat(x.Format), proto.ExportFormat(x.Dictionary)
	err = g.stream(w, "export", func(out *begun) error {
		out.Header().Set("Content-Type", "application/x-tar")
		return exports.Write(r.Context(), &hurried{out, http.NewResponseController(w), g.metrics, func() error { return g.notEnded(client) }}, a, x.Have, x.Since)
	})
	if err == nil {
		g.metrics.exports.Inc()
	}
	return err
}

// readExport reads and checks the request; what it leaves out is filled in.
func (g *Gateway) readExport(r *http.Request, who proto.Principal, body []byte) (*proto.ExportRequest, proto.ClientInfo, error) {
	x := &proto.ExportRequest{}
	if err := decodeStrict(body, x); err != nil {
		return nil, proto.ClientInfo{}, err
	}
	if v := queryValue(r.URL.RawQuery, "client"); v != "" {
		x.Client = v
	}
	if v := queryValue(r.URL.RawQuery, "after"); v != "" {
		x.After = v
	}
	client, err := g.clientFor(who, x.Client)
	if err == nil {
		err = checkExport(x)
	}
	if err == nil {
		err = g.wait(r.Context(), x.After)
	}
	return x, client, err
}

func checkExport(x *proto.ExportRequest) error {
	switch {
	case x.Expr == "":
		return proto.Errorf(proto.CodeExpr, `the body has no expr: send {"expr":"auto & !owners","format":"csv"}`)
	case len(x.Expr) > exprBytesMax:
		return proto.Errorf(proto.CodeExpr, "expr is over %d bytes", exprBytesMax)
	case x.Unit != "" && x.Unit != proto.UnitIdentities && x.Unit != proto.UnitUsers:
		return proto.Errorf(proto.CodeInvalid, "unit %q is unknown: use identities or users", clip(x.Unit))
	case x.Members && (x.Unit != proto.UnitUsers || x.Since != nil):
		return proto.Errorf(proto.CodeInvalid, "members are named in whole exports by users only: leave members out")
	case len(x.Have) > proto.LanesMax || x.Since != nil && len(x.Since.Lanes) > proto.LanesMax:
		return proto.Errorf(proto.CodeInvalid, "the body names over %d lanes", proto.LanesMax)
	case x.Since != nil && (len(x.Have) > 0 || x.Since.Time.IsZero()):
		return proto.Errorf(proto.CodeInvalid, "a delta needs the earlier export's time, and cannot be resumed: leave have out")
	}
	f, err := proto.ParseExportFormat(x.Format)
	if err != nil {
		return err
	}
	if x.Dictionary == "" {
		x.Dictionary = string(proto.FormatNone)
		if f == proto.FormatRoaring {
			x.Dictionary = string(proto.FormatCSV)
		}
	}
	d := proto.ExportFormat(x.Dictionary)
	if d == proto.FormatNone {
		return nil
	}
	if _, err := proto.ParseExportFormat(x.Dictionary); err != nil || d == proto.FormatRoaring || f != proto.FormatRoaring {
		return proto.Errorf(proto.CodeInvalid, "dictionary %q is not one for format %s: with roaring use parquet, arrow, csv, ndjson or none, with others leave it out", clip(x.Dictionary), f)
	}
	return nil
}

// applyFloor keeps small audiences from all but admin keys. A delta is given
// all the same, as if nobody were left: the recall must reach whoever has the
// earlier export.
func (g *Gateway) applyFloor(who proto.Principal, client proto.ClientInfo, a *exports.Audience, delta bool) error {
	floor := g.floorFor(who, client)
	if a.Manifest.Count >= uint64(floor) {
		return nil
	}
	if delta {
		a.Conceal(floor)
		return nil
	}
	return proto.Errorf(proto.CodeForbidden, "the audience has fewer than %d members, which a client's key may not see: widen the expression", floor)
}

// notEnded is nil while the client was not ended.
func (g *Gateway) notEnded(client proto.ClientInfo) error {
	if now, ok := g.deps.Accounts.Client(client.Name); !ok || now.ID != client.ID {
		return proto.Errorf(proto.CodeConflict, "client %s was ended meanwhile: nothing more is told of it", client.Name)
	}
	return nil
}

// hurried is a long answer whose reader may not stall, about a client that may end.
type hurried struct {
	*begun
	c       *http.ResponseController
	metrics *metrics
	may     func() error // what an audience was opened with stays readable after its client
}

// Write implements io.Writer.
func (h *hurried) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		if err := h.may(); err != nil {
			return n, err
		}
		piece := p[:min(len(p), stallBytes)]
		_ = h.c.SetWriteDeadline(time.Now().Add(stallMax)) // not every writer has deadlines
		var k int
		k, err = h.begun.Write(piece)
		n += k
		p = p[len(piece):]
		h.metrics.exportBytes.Add(float64(k))
	}
	return n, err
}
