package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kith/cluster"
	"kith/engine"
	"kith/engine/log"
	"kith/internal/config"
	"kith/proto"
)

// members are the nodes of the cluster that this node is in; nil: it is alone.
type members struct {
	*cluster.Membership
	config config.Config
	secret []byte
	keys   [][]byte      // that nodes know one another by: the first is used, all are taken
	lanes  cluster.Lanes // all
}

// leaveMax is how long the others are told that the node goes.
const leaveMax = 2 * time.Second

// joinCluster begins to look for the other nodes.
func joinCluster(c config.Config, logger *slog.Logger) (*members, error) {
	if c.Cluster.Listen == "" {
		return nil, nil
	}
	secret, err := readSecret(c.SecretFile)
	if err != nil {
		return nil, err
	}
	if secret == nil && c.Dev {
		sum := sha256.Sum256([]byte(config.DevAdminKey))
		secret = sum[:16]
	}
	m := &members{config: c, secret: secret}
	if m.keys, err = readKeys(c.Cluster.KeyFiles, secret); err != nil {
		return nil, err
	}
	for i := range c.Lanes {
		m.lanes = m.lanes.With(proto.LaneID(i))
	}
	m.Membership, err = cluster.Join(cluster.Config{
		Name: c.Node, Cluster: c.Cluster.Name, Listen: c.Cluster.Listen, Advertise: c.Cluster.Advertise, Join: c.Cluster.Join, Keys: m.keysFor("gossip"),
		Lanes: c.Lanes, Replicas: max(len(c.Cluster.Join), 1), Logger: logger,
	})
	return m, err
}

// meet looks for the others before anything is opened. CodeConflict if one of them
// has this node's name.
func (m *members) meet(ctx context.Context) error {
	if m == nil {
		return nil
	}
	return m.Meet(ctx)
}

// sole is a context that ends when ctx does or another process has this node's
// name, which is its cause then.
func (m *members) sole(ctx context.Context) (context.Context, context.CancelFunc) {
	if m == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-m.Gone():
			cancel(m.Displaced())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// stay runs until ctx ends, or another process has this node's name.
func (m *members) stay(ctx context.Context) error {
	if m == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-m.Gone():
		return m.Displaced()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readKeys reads the keys of a cluster; without files its secret is the only one.
func readKeys(files []string, secret []byte) (list [][]byte, err error) {
	if len(files) == 0 {
		return [][]byte{secret}, nil
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, proto.Errorf(proto.CodeInvalid, "cannot read one of cluster.key_files: %w", err)
		}
		key, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || len(key) < 16 {
			return nil, proto.Errorf(proto.CodeInvalid, "%s of cluster.key_files does not hold 32 hex digits or more: make one with `openssl rand -hex 32`", name)
		}
		list = append(list, key)
	}
	return list, nil
}

// keysFor are the keys for one purpose.
func (m *members) keysFor(purpose string) (list [][]byte) {
	for _, k := range m.keys {
		list = append(list, engine.CommonKey(k, purpose))
	}
	return list
}

// configure makes the engine's node one of the cluster.
func (m *members) configure(ec *engine.Config) error {
	if m == nil {
		return nil
	}
	x := &m.config.Cluster
	c := &log.Cluster{Name: x.Name, Replicas: x.LogReplicas}
	for _, k := range m.keysFor("log") {
		c.Accept = append(c.Accept, hex.EncodeToString(k))
	}
	c.Secret = c.Accept[0]
	var err error
	if c.Listen, err = config.ClusterPort(x.Listen, 1); err != nil {
		return err
	}
	for _, j := range x.Join {
		r, err := config.ClusterPort(j, 1)
		if err != nil {
			return err
		}
		c.Routes = append(c.Routes, r)
	}
	if c.TLS, err = nodeTLS(x); err != nil {
		return err
	}
	ec.Cluster, ec.Peers, ec.Begin, ec.HashSecret = c, m, m.Begin, m.secret
	return nil
}

// nodeTLS is for both ends of a connection between nodes; nil without files.
func nodeTLS(c *config.Cluster) (*tls.Config, error) {
	if c.CA == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the node's certificate cannot be used; cluster.cert and cluster.key must be PEM files that belong together: %w", err)
	}
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot read cluster.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, proto.Errorf(proto.CodeInvalid, "cluster.ca %s holds no PEM certificate", c.CA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// Owner implements engine.Peers.
func (m *members) Owner(id proto.LaneID) (string, <-chan struct{}) {
	changed := m.Changed() // before the table is looked at
	return m.Table().Owner(id), changed
}

// SetReady implements engine.Peers.
func (m *members) SetReady(ready bool) {
	if !ready {
		m.Membership.SetReady(0)
		return
	}
	m.Membership.SetReady(m.lanes)
}

// SetPlaced implements engine.Peers.
func (m *members) SetPlaced(placed map[proto.LaneID]string) { m.Membership.SetPlaced(placed) }

// Nodes implements engine.Peers.
func (m *members) Nodes() []proto.NodeStatus {
	t := m.Table()
	var list []proto.NodeStatus
	for _, x := range t.Members() {
		n := proto.NodeStatus{Name: x.Name, Ready: x.Ready == m.lanes, Draining: x.Draining, Started: x.Started.Time(), Lanes: []int{}, Owns: []int{}}
		for i := range m.config.Lanes {
			if id := proto.LaneID(i); x.Ready.Has(id) {
				n.Lanes = append(n.Lanes, i)
				if t.Owner(id) == x.Name {
					n.Owns = append(n.Owns, i)
				}
			}
		}
		list = append(list, n)
	}
	return list
}

// tell gives Prometheus what this node knows of the others.
func (m *members) tell(registry prometheus.Registerer) {
	if m == nil {
		return
	}
	for _, g := range []struct {
		name, help string
		count      func() int
	}{
		{"members", "Nodes of the cluster that this one sees, itself included.", func() int { return len(m.Table().Members()) }},
		{"members_ready", "Those of them that say they answer for all lanes.", func() int {
			return len(slices.DeleteFunc(m.Table().Members(), func(x cluster.Member) bool { return x.Ready != m.lanes }))
		}},
		{"members_expected", "Nodes that cluster.join names.", func() int { return len(m.config.Cluster.Join) }},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_cluster_" + g.name, Help: g.help},
			func() float64 { return float64(g.count()) }))
	}
}

func (m *members) leave() error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveMax)
	defer cancel()
	return m.Leave(ctx)
}
