// Package dashboards tests what packaging/grafana and packaging/prometheus have
// for operators. It needs promtool, the npm modules of node/ (make
// dashboard-modules) and the programs in build/ (make build). Start reading at
// TestExpressions; package mixin makes the dashboards.
package dashboards
