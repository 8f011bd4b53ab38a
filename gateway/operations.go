package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"kith/proto"
)

func (g *Gateway) healthz(w http.ResponseWriter, _ *http.Request) error {
	if err := g.deps.Operations.Live(); err != nil {
		return notReady(err)
	}
	writeJSON(w, http.StatusOK, alive)
	return nil
}

// alive is what /healthz answers of a process that runs.
var alive = []byte(`{"ok":true}` + "\n")

func (g *Gateway) readyz(w http.ResponseWriter, _ *http.Request) error {
	if err := g.deps.Operations.Ready(); err != nil {
		return notReady(err)
	}
	writeJSON(w, http.StatusOK, []byte(`{"ready":true}`+"\n"))
	return nil
}

// notReady keeps the reason and makes sure that the status is 503.
func notReady(err error) error {
	e := asError(err)
	if statusOf(e.Code) == http.StatusServiceUnavailable {
		return e
	}
	return proto.Errorf(proto.CodeUnavailable, "%s", e.Message)
}

// keyRequest is the body of POST /v1/keys.
type keyRequest struct {
	Client string `json:"client"`
	Role   string `json:"role"`
	Space  string `json:"space"`
}

// keyAnswer shows a new key, this once.
type keyAnswer struct {
	Key    string           `json:"key"`
	Client proto.ClientName `json:"client,omitempty"`
	Role   proto.Role       `json:"role"`
	Space  string           `json:"space,omitempty"`
}

func (g *Gateway) postKey(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	var x keyRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	if x.Role == "" {
		x.Role = string(proto.RoleClient)
	}
	a := keyAnswer{Space: x.Space}
	var err error
	if a.Role, err = proto.ParseRole(x.Role); err != nil {
		return err
	}
	if a.Role != proto.RoleAdmin || x.Client != "" {
		if a.Client, err = proto.ParseClientName(x.Client); err != nil {
			return err
		}
	}
	switch {
	case a.Role == proto.RoleAdmin && (x.Client != "" || x.Space != ""):
		return proto.Errorf(proto.CodeInvalid, "an admin key is for all clients: leave client and space out")
	case x.Space != "" && !proto.ValidName(x.Space):
		return proto.Errorf(proto.CodeInvalid, "space %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ - and dots, not a dot first", clip(x.Space))
	}
	if a.Key, err = g.deps.Accounts.CreateKey(r.Context(), a.Client, a.Role, x.Space); err != nil {
		return err
	}
	w.Header()["Cache-Control"] = noStore
	return writeValue(w, http.StatusCreated, a)
}

// DeadLettersMax bounds one listing.
const DeadLettersMax = 1000

func (g *Gateway) listDeadLetters(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	limit := 100
	if s := queryValue(r.URL.RawQuery, "limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > DeadLettersMax {
			return proto.Errorf(proto.CodeInvalid, "limit is not a number from 1 to %d", DeadLettersMax)
		}
		limit = n
	}
	list, err := g.deps.Operations.DeadLetters(r.Context(), limit)
	if err != nil {
		return err
	}
	if list == nil {
		list = []proto.DeadLetter{}
	}
	return writeValue(w, http.StatusOK, map[string]any{"deadletters": list})
}

func (g *Gateway) replayDeadLetter(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	if err := g.deps.Operations.Replay(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, []byte(`{"replayed":true}`+"\n"))
	return nil
}

// partitionStatus is one slot of the hash space, by the lane that carries it.
type partitionStatus struct {
	Partition int          `json:"partition"`
	Lane      proto.LaneID `json:"lane"`
	Owner     string       `json:"owner"`
	Ready     bool         `json:"ready"`
}

func (g *Gateway) listPartitions(w http.ResponseWriter, _ *http.Request, _ proto.Principal) error {
	lanes := g.deps.Operations.Lanes()
	list := make([]partitionStatus, 0, proto.Partitions)
	for _, l := range lanes {
		for _, p := range l.Partitions {
			list = append(list, partitionStatus{p, l.Lane, l.Owner, l.Quarantined == ""})
		}
	}
	return writeValue(w, http.StatusOK, map[string]any{"partitions": list, "lanes": lanes})
}

// getCluster shows the nodes as this one knows them.
func (g *Gateway) getCluster(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	return writeValue(w, http.StatusOK, g.deps.Cluster.ClusterStatus(r.Context()))
}

// drainNode is POST and DELETE: begin and end.
func (g *Gateway) drainNode(drain bool) keyed {
	return func(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
		node := r.PathValue("name")
		if err := g.deps.Cluster.Drain(r.Context(), node, drain); err != nil {
			return err
		}
		return writeValue(w, http.StatusOK, map[string]any{"node": node, "draining": drain})
	}
}

func (g *Gateway) forgetNode(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	node := r.PathValue("name")
	if err := g.deps.Cluster.Forget(r.Context(), node); err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, map[string]any{"node": node, "forgotten": true})
}

// placeLane is PUT with {"node": …} and DELETE.
func (g *Gateway) placeLane(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	lane, err := strconv.ParseUint(r.PathValue("lane"), 10, 8)
	if err != nil || lane >= proto.LanesMax {
		return proto.Errorf(proto.CodeInvalid, "%q is not a lane: use 0 to %d", clip(r.PathValue("lane")), proto.LanesMax-1)
	}
	var x struct {
		Node string `json:"node"`
	}
	if r.Method == http.MethodPut {
		if err := g.readValue(w, r, &x); err != nil {
			return err
		}
		if x.Node == "" {
			return proto.Errorf(proto.CodeInvalid, `name the node that is to own the lane: {"node":"n1"}; DELETE gives it back`)
		}
	}
	if err := g.deps.Cluster.Place(r.Context(), proto.LaneID(lane), x.Node); err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, map[string]any{"lane": lane, "node": x.Node})
}

// unhurried lifts the deadlines of an answer that takes long.
func unhurried(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Time{}) // not every writer has deadlines
	_ = c.SetReadDeadline(time.Time{})
}

// begun notes whether anything was written: after that an error cannot become
// an answer any more.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(p)
}

// stream answers with the bytes that write gives; what names them in the log.
func (g *Gateway) stream(w http.ResponseWriter, what string, write func(*begun) error) error {
	unhurried(w)
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	out := &begun{ResponseWriter: w}
	err := write(out)
	if err != nil && out.yes {
		level := slog.LevelError
		if errors.Is(err, context.Canceled) {
			level = slog.LevelInfo // the caller went away
		}
		g.log.Log(context.Background(), level, what+" broke off", "error", err)
		panic(http.ErrAbortHandler) // so that the reader sees a cut stream
	}
	return err
}

func (g *Gateway) postBackup(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	return g.stream(w, "backup", func(out *begun) error { return g.deps.Maintenance.Backup(r.Context(), out) })
}

func (g *Gateway) getVerify(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	unhurried(w)
	report, err := g.deps.Maintenance.Verify(r.Context())
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, report)
}
