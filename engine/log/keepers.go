package log

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kith/proto"
)

// Streams says which nodes keep each stream: the lanes' first, then the others.
// One that does not answer within a second has no leader.
func (l *Log) Streams(ctx context.Context) []proto.StreamStatus {
	var all []*stream
	for _, x := range l.lanes {
		all = append(all, &x.stream)
	}
	for _, x := range []*control{l.control, l.ledger, l.feed} {
		all = append(all, &x.stream)
	}
	list := make([]proto.StreamStatus, len(all))
	var asking sync.WaitGroup
	for i, s := range all {
		asking.Go(func() { list[i] = l.status(ctx, s) })
	}
	asking.Wait()
	return list
}

func (l *Log) status(ctx context.Context, s *stream) proto.StreamStatus {
	x := proto.StreamStatus{Stream: s.name, Others: []proto.StreamCopy{}}
	ctx, cancel := context.WithTimeout(ctx, askTry)
	defer cancel()
	info, err := s.js.Info(ctx)
	switch {
	case err != nil:
	case info.Cluster == nil:
		x.Leader = l.conn.ConnectedServerName()
	default:
		x.Leader = info.Cluster.Leader
		for _, p := range info.Cluster.Replicas {
			x.Others = append(x.Others, proto.StreamCopy{Node: p.Name, Current: p.Current && !p.Offline, Lag: p.Lag})
		}
		keep := len(x.Others) // without a leader this server's is among them
		if x.Leader != "" {
			keep++
		}
		x.Missing = max(0, info.Config.Replicas-keep)
	}
	return x
}

// RemoveServer has the other servers of the cluster do without the one of a node
// that is gone for good: it counts no more in their votes, and what it kept is
// kept by another, if there is one more than needed. A node of that name may come
// again, with an empty directory.
func (l *Log) RemoveServer(ctx context.Context, node string) error {
	if l.embedded == nil || !l.embedded.clustered {
		return proto.Errorf(proto.CodeConflict, "the log is not kept by the nodes of a cluster: its servers are not kith's to remove")
	}
	nc, err := l.embedded.connectAs(l.embedded.system, &l.config)
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "no connection to the embedded NATS server: %w", err)
	}
	defer nc.Close()
	body, err := json.Marshal(map[string]string{"peer": node, "peer_id": peerID(node)})
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode the removal of a server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	return untilRemoved(ctx, node, func() (int, string, error) { return askRemoval(ctx, nc, body) })
}

// untilRemoved asks for a removal until it is made, refused, or ctx ends.
func untilRemoved(ctx context.Context, node string, ask func() (code int, why string, err error)) error {
	began, last := false, error(nil)
	for {
		code, why, err := ask()
		switch {
		case err == nil && code == 0:
			return nil
		case code == notMember && began: // by a question whose answer is late or got lost
			return nil
		case code == notMember:
			return proto.Errorf(proto.CodeNotFound, "the log's servers know of none of a node %q (any more)", node)
		case err == nil && code != changing:
			return proto.Errorf(proto.CodeConflict, "the log's servers do not remove %s: %s", node, why)
		}
		began = began || code == changing || err != nil && !errors.Is(err, nats.ErrNoResponders)
		if ctx.Err() == nil {
			last = cmp.Or(err, errors.New(why))
		}
		select {
		case <-time.After(removeTry / 4):
		case <-ctx.Done():
			return proto.Errorf(proto.CodeUnavailable, "node %s was not removed from the log's servers within %v: more than half of them must run for that; ask again: %w", node, removeTimeout, last)
		}
	}
}

// peerID is by what the servers know a node: what nats-server's getHash makes of its
// name. By the name alone its leader finds only those that it has met since its start.
func peerID(node string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(node))
	id := sum[:8]
	for i, b := range id {
		id[i] = digits[int(b)%len(digits)]
	}
	return string(id)
}

const (
	// removeTimeout is for all of a removal: an election may be under way.
	removeTimeout = 20 * time.Second
	removeTry     = 2 * time.Second
	// Error codes of nats-server: JSClusterServerNotMemberErr,
	// JSClusterServerMemberChangeInflightErr.
	notMember = 10044
	changing  = 10202
)

// askRemoval asks for a removal once. A code of 0 without an error says that it
// was made.
func askRemoval(ctx context.Context, nc *nats.Conn, body []byte) (code int, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, removeTry)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.SERVER.REMOVE", body)
	if err != nil {
		return 0, "", err
	}
	var answer struct {
		Error struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	err = json.Unmarshal(m.Data, &answer)
	return answer.Error.Code, answer.Error.Description, err
}
