"""Addresses of the pages. What changes something is a POST."""

from django.urls import path, re_path

from . import backups, demo, disks, jobs, journal, nodes, operate, pool_add, pools, schedules, sign_in, vm_create, vms

urlpatterns = [
    path("", vms.vm_list, name="vms"),
    path("sign-in/", sign_in.sign_in, name="sign-in"),
    path("sign-out/", sign_in.sign_out, name="sign-out"),
    path("role/", sign_in.role, name="role"),
    path("language/", sign_in.language, name="language"),
    path("vms/new/", vm_create.vm_create, name="vm-create"),
    path("vms/new/check/", vm_create.vm_check, name="vm-check"),
    path("vms/<str:pk>/", vms.vm_card, name="vm"),
    path("vms/<str:pk>/row/", vms.vm_row, name="vm-row"),
    path("vms/<str:pk>/menu/", vms.vm_menu, name="vm-menu"),
    path("vms/<str:pk>/edit/", vms.vm_edit, name="vm-edit"),
    path("disks/", disks.disk_list, name="disks"),
    path("disks/new/", operate.disk_create, name="disk-create"),
    path("backups/", backups.backup_list, name="backups"),
    path("vms/<str:pk>/schedule/<str:action>/", schedules.schedule_add, name="schedule-add"),
    path("schedules/<str:pk>/remove/", schedules.schedule_remove, name="schedule-remove"),
    path("jobs/", jobs.job_list, name="jobs"),
    path("jobs/<str:pk>/", jobs.job_page, name="job"),
    path("jobs/<str:pk>/<str:word>/", jobs.job_word, name="job-word"),
    path("nodes/", nodes.node_list, name="nodes"),
    path("nodes/new/", nodes.node_add, name="node-add"),
    path("nodes/<str:pk>/", nodes.node_card, name="node"),
    path("nodes/<str:pk>/token/", nodes.node_token, name="node-token"),
    path("nodes/<str:pk>/state/", nodes.node_state, name="node-state"),
    path("pools/", pools.pool_list, name="pools"),
    path("pools/new/", pool_add.pool_add, name="pool-add"),
    path("pools/new/check/", pool_add.pool_check, name="pool-check"),
    path("pools/<str:pk>/", pools.pool_card, name="pool"),
    path("pools/<str:pk>/edit/", pools.pool_edit, name="pool-edit"),
    path("journal/", journal.journal, name="journal"),
    path("demo/", demo.demo, name="demo"),
    re_path(
        r"^(?P<noun>vms|nodes|disks|pools|snapshots|backups)/(?P<pk>[^/]+)/do/(?P<name>[a-z_]+)/$",
        operate.operate,
        name="operate",
    ),
]
