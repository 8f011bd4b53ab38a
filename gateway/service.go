package gateway

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kith/proto"
)

// serviceRoutes are what those with a key may ask.
func (g *Gateway) serviceRoutes() *plane {
	p := g.newPlane("service")
	client := func(h keyed) handler { return g.behindKey(h, proto.RoleClient, proto.RoleAdmin) }
	anyone := func(h keyed) handler { return g.behindKey(h, proto.RoleClient, proto.RoleReport, proto.RoleAdmin) }
	admin := func(h keyed) handler { return g.behindKey(h, proto.RoleAdmin) }
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	post := func(h handler) map[string]handler { return map[string]handler{http.MethodPost: h} }

	p.add("/v1/events", post(client(g.serviceEvents)))
	p.add("/v1/lookup", post(client(g.postLookup)))
	p.segment = p.add("/v1/identities/{identity}/segments", get(client(g.getSegments)))
	p.add("/v1/identities/{identity}", get(client(g.getRecord)))
	p.add("/v1/identities/{identity}/traits", map[string]handler{http.MethodPatch: client(g.patchTraits)})
	p.add("/v1/identities/{identity}/explain", get(client(g.getExplanation)))
	p.add("/v1/segments", get(client(g.listSegments)))
	p.add("/v1/segments/{id}", map[string]handler{
		http.MethodGet: client(g.getSegment), http.MethodPut: client(g.putSegment), http.MethodDelete: client(g.deleteSegment),
	})
	p.add("/v1/audiences/count", post(anyone(g.postCount)))
	p.add("/v1/keys", post(admin(g.postKey)))
	p.add("/v1/clients", get(admin(g.listClients)))
	p.add("/v1/deadletters", get(admin(g.listDeadLetters)))
	p.add("/v1/deadletters/{id}/replay", post(admin(g.replayDeadLetter)))
	p.add("/v1/partitions", get(admin(g.listPartitions)))
	p.add("/v1/cluster", get(admin(g.getCluster)))
	p.add("/debug/pprof/{profile}", get(admin(g.getProfile)))
	if g.deps.Maintenance != nil {
		p.add("/v1/backup", post(admin(g.postBackup)))
		p.add("/v1/verify", get(admin(g.getVerify)))
	}
	p.add("/healthz", get(g.healthz))
	p.add("/readyz", get(g.readyz))
	p.add("/metrics", get(g.scrape()))
	return p
}

func (g *Gateway) scrape() handler {
	h := promhttp.HandlerFor(g.deps.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return func(w http.ResponseWriter, r *http.Request) error {
		h.ServeHTTP(w, r)
		return nil
	}
}
