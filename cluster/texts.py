"""What people read for each code: cause (names the thing and the place) and hint (what to do next), in both languages.

Rows keep codes and facts only; the words are chosen when somebody reads them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from django.utils.translation import get_language, gettext
from django.utils.translation import gettext_noop as _

from nodes.contract.sizes import format_exact, format_size

from .models import AffinityPolicy, Role, VmState

TEXTS: dict[str, tuple[str, str]] = {
    # Rights
    "role_may_not": (
        _("the role “%(role)s” may not do this (%(action)s)"),
        _("ask an administrator for another grant"),
    ),
    "not_ticked": (
        _("this action (%(action)s) is not ticked in your grant"),
        _("ask the administrator of your tenant to permit it"),
    ),
    # Jobs and locks
    "already_running": (_("the same operation is already under way: job %(job)s"), _("wait for it, or cancel it")),
    "locked": (_("%(lock)s is in use by job %(job)s"), _("wait for that job, or let this one wait in line")),
    "past_pivot": (
        _("the job has passed the point of no return and can only go forward"),
        _("wait until it ends; then do the opposite operation"),
    ),
    "in_doubt": (
        _("a node's answer about the decisive step is in doubt and is being settled"),
        _("wait until it is settled, or let an administrator resolve the job"),
    ),
    "job_ended": (_("the job has already ended"), ""),
    "job_not_stuck": (_("the job is not stuck"), _("wait for it, or cancel it")),
    "job_waits_for_nothing": (_("the job does not wait for a click"), ""),
    "waits_for_children": (_("waits for %(count)s jobs that it began"), ""),
    "children_failed": (
        _("%(failed)s of %(count)s jobs that it began failed"),
        _("look at job %(job)s first"),
    ),
    "grant_gone": (_("who asked for this has lost the grant in whose name it ran"), _("ask for it again")),
    "subject_gone": (_("%(name)s was deleted while the job waited its turn"), ""),
    "job_not_waiting": (_("the job does not wait in a line any more"), ""),
    "job_undoing": (_("the job is being undone already"), _("wait until it ends")),
    "being_resolved": (_("the job is being resolved: the nodes are being looked at"), _("wait for their answers")),
    "type_node_name": (
        _("node %(node)s is silent: what it holds cannot be seen"),
        _("type the node's name to confirm, or wait until it is back"),
    ),
    "steps_changed": (
        _("this version of the panel has other steps for this operation than the job began with (%(steps)s)"),
        _("an administrator resolves the job after a look at the nodes"),
    ),
    "cannot_be_settled": (
        _("the step “%(step)s” is in doubt and what the nodes show does not decide it; nothing was touched"),
        _("look at the nodes and resolve the job"),
    ),
    "settling": (_("the step “%(step)s” is in doubt: the nodes are being looked at"), ""),
    "waits_for_click": (_("waits for a click"), _("press “Proceed”")),
    "cancelled_on_node": (_("the node cancelled a step that can only go forward"), _("it is tried again by itself")),
    "superseded": (
        _("the node has already seen a later message about %(object)s"),
        _("look at the history of the object; the panel's database may be older than the node's ledger"),
    ),
    "uncertain": (_("the node does not know whether the step happened"), _("it is asked again by itself")),
    "internal": (
        _("an internal error in the step “%(step)s”"),
        _("look for job %(job)s in the conductor's log and report it"),
    ),
    "placement_lost": (
        _("others were quicker: the room that was found was taken three times in a row"),
        _("try again in a moment"),
    ),
    # Nodes
    "node_offline": (_("node %(node)s is offline"), _("it goes on by itself when the node is back")),
    "no_answer": (
        _("node %(node)s is online, but says nothing of %(verb)s: a hung QEMU or libvirtd may hold it"),
        _("look at the node: once that process ends, the job goes on by itself; else an administrator resolves it"),
    ),
    "balanced_already": (
        _("no move is worth it: the fullest and the emptiest node differ by %(spread)s points out of 1000"),
        _("allow disks to be copied, or look at what hinders the VMs of the fullest node"),
    ),
    "balance_undone": (_("this balance is undone already"), ""),
    "nothing_to_undo": (_("none of the VMs that it moved can return"), _("they were moved since, or there is no room")),
    "node_gone": (_("node %(node)s has not joined the cluster, or was removed"), _("join it again")),
    "node_busy": (_("node %(node)s already does %(limit)s long things at once"), _("it goes on when one of them ends")),
    "node_too_old": (
        _("the agent of node %(node)s (%(version)s) is too old for %(verb)s"),
        _("update the agent on that node"),
    ),
    "node_has_vms": (_("node %(node)s still has %(count)s VMs"), _("delete or move them first")),
    "node_name_taken": (_("there is already a node named %(name)s"), _("choose another name")),
    "node_address_taken": (_("there is already a node with the address %(address)s"), _("choose another address")),
    "token_unknown": (
        _("the join token is unknown, used or expired"),
        _("take a fresh command from the node's page in the panel"),
    ),
    "host_uuid_taken": (
        _("another node has the host UUID %(uuid)s already"),
        _("give this machine a host_uuid of its own in libvirtd.conf and restart libvirtd"),
    ),
    "bad_certificate_request": (_("the certificate request cannot be read"), _("run the join command again")),
    "no_node": (
        _("no node can take this VM"),
        _("look at the reasons of each node; free something, or ask for less"),
    ),
    "node_answers": (
        _("node %(node)s answers: only a silent one can be declared dead"),
        _("to empty it, evacuate it"),
    ),
    "type_to_declare_dead": (
        _("node %(node)s may be alive, with only its link to the panel cut"),
        _("type its name to declare it dead"),
    ),
    "declared_dead": (
        _("node %(node)s was declared dead and has not been taken back"),
        _("take it back first: what was started elsewhere is ended on it"),
    ),
    "not_declared_dead": (_("node %(node)s was not declared dead"), ""),
    "guests_changed": (_("what is left on node %(node)s has changed meanwhile"), _("ask for it again")),
    "node_not_dead": (
        _("node %(node)s, to which %(vm)s belongs, was not declared dead"),
        _("wait until it is back, or declare it dead on its page"),
    ),
    "job_holds_it": (
        _("job %(job)s, which waits for node %(node)s, holds %(vm)s"),
        _("cancel or resolve that job, then ask again"),
    ),
    "disk_not_there": (
        _("node %(node)s does not see the pool %(pool)s, in which disk %(disk)s is"),
        _("it stays where it is until its node is back"),
    ),
    "no_fence": (
        _("nothing can stop node %(node)s from running %(vm)s on and writing to its disks (pools: %(pools)s)"),
        _("switch its power off, look that it is off, and say so"),
    ),
    "cannot_be_held_back": (
        _("nothing keeps node %(node)s from starting %(vm)s again at its next boot (pools: %(pools)s)"),
        _("it stays where it is until its node is back"),
    ),
    "fence_hits_others": (
        _("node %(node)s and %(other)s have one address in pool %(pool)s (%(address)s): none can be shut out alone"),
        _("give each node an address of its own there"),
    ),
    "fences_itself": (
        _("the node that was to shut the other one out has the same address in Ceph"),
        _("give each node an address of its own there"),
    ),
    "fence_denied": (
        _("the pool's Ceph user may not shut a node out, or let it in again"),
        _("give it the caps that the administrator's guide names, then try again"),
    ),
    "disk_watched": (
        _("%(clients)s still has the disk %(disk)s open, and is not at an address of the node that was shut out"),
        _("end that client, or block it in Ceph, then try again"),
    ),
    "maintenance": (_("node %(node)s is in maintenance"), _("choose another node, or end the maintenance")),
    "outside_group": (
        _("node %(node)s is not in the group %(node_group)s, which is the only place for this VM"),
        _("choose a node of that group, or let the VM go anywhere"),
    ),
    "node_group_unknown": (_("there is no such group of nodes"), _("choose one from the list")),
    "node_group_name_taken": (_("there is already a group of nodes named %(name)s"), _("choose another name")),
    "node_group_in_use": (
        _("the group %(name)s is in use (nodes: %(nodes)s, VMs bound to it: %(vms)s)"),
        _("take its nodes out of it, and let its VMs go anywhere"),
    ),
    "no_memory": (
        _("no memory on node %(node)s: %(free)s free of %(whole)s for VMs, %(needed)s needed"),
        _("ask for less, stop something there, or choose another node"),
    ),
    "no_cpus": (
        _("no room for %(vcpus)s vCPUs on node %(node)s: CPUs there: %(cpus)s, vCPUs free: %(left)s of %(limit)s"),
        _("ask for no more than either, or choose another node"),
    ),
    "reserve_too_large": (
        _("node %(node)s has %(size)s of memory, and %(asked)s would be kept from its VMs"),
        _("choose less"),
    ),
    "no_bridge": (_("node %(node)s has no bridge %(bridge)s"), _("make the bridge there, or choose another network")),
    "fewer_points": (
        _("node %(node)s could take it too, and has %(points)s points by what would stay free; %(best)s has %(most)s"),
        "",
    ),
    "fewer_points_busy": (
        _(
            "node %(node)s could take it too, and has %(points)s points, after it lost %(lost)s for having been"
            " %(percent)s %% busy in the last minutes; %(best)s has %(most)s"
        ),
        "",
    ),
    "node_busy_lately": (
        _("%(node)s was %(percent)s %% busy in the last minutes, for which it has lost %(lost)s points"),
        "",
    ),
    "as_good": (_("node %(node)s could take it too (%(points)s points); %(best)s comes before it"), ""),
    "only_node": (_("%(node)s is the only node that can take it"), ""),
    "most_points": (
        _("%(node)s has the most points (%(points)s of 1000) by what would stay free of its memory and vCPUs"),
        "",
    ),
    # Affinity
    "affinity_apart": (
        _("VM %(vm)s of group %(group)s is on %(there)s, and the group keeps its VMs apart"),
        _("choose another node, add one, or take one of the two VMs out of the group"),
    ),
    "affinity_together": (
        _("VM %(vm)s of group %(group)s is on %(there)s, and the group keeps its VMs together"),
        _("choose that node, or take one of the two VMs out of the group"),
    ),
    "affinity_apart_soft": (
        _("VM %(vm)s of group %(group)s is on %(there)s, and the group would rather have its VMs apart"),
        "",
    ),
    "affinity_together_soft": (
        _("VM %(vm)s of group %(group)s is on %(there)s, and the group would rather have its VMs together"),
        "",
    ),
    "affinity_in_the_way": (
        _("the group %(group)s allows no node on which there is room for this VM"),
        _("leave that group out, or ask the operators for room"),
    ),
    "affinity_broken": (
        _("%(vm)s and %(other)s are not where the group %(group)s wants its VMs (%(policy)s)"),
        _("move one of them first, or do not make the group strict"),
    ),
    "affinity_group_unknown": (_("there is no such affinity group"), _("choose one from the list")),
    "affinity_group_name_taken": (
        _("there is already an affinity group named %(name)s in this tenant"),
        _("choose another name"),
    ),
    # Moves between nodes
    "same_node": (_("%(vm)s is on node %(node)s already"), _("choose another node")),
    "no_target": (
        _("no node can take %(vm)s"),
        _("look at the reasons of each node; free something there, or add a node"),
    ),
    "simulated_cannot_move": (_("node %(node)s is simulated: there is no guest that could move"), ""),
    "virt_differs": (
        _("node %(node)s runs guests with %(virt)s, node %(source)s with %(source_virt)s"),
        _("choose a node of the same kind"),
    ),
    "qemu_older": (
        _("QEMU on node %(node)s (%(version)s) is older than on node %(source)s (%(source_version)s)"),
        _("update it there, or choose another node: a guest moves only to the same QEMU or a newer one"),
    ),
    "machine_absent": (
        _("QEMU on node %(node)s has no machine %(machine)s, which guests of node %(source)s have"),
        _("update QEMU there, or choose another node"),
    ),
    "cpu_vendor_differs": (
        _("%(vm)s was started on a CPU of %(source_vendor)s (node %(source)s), node %(node)s has one of %(vendor)s"),
        _("shut it down first: a VM that is off goes to any CPU; or choose another node"),
    ),
    "cpu_differs": (
        _("the CPU of node %(node)s lacks %(features)s (%(count)s in all), which %(vm)s has from node %(source)s"),
        _("shut it down first: a VM that is off goes to any CPU; or choose another node"),
    ),
    "no_migration_port": (
        _("libvirtd of node %(node)s does not listen for other nodes (TCP 16514)"),
        _("start libvirtd-tls.socket there, then check the node"),
    ),
    "iso_absent_there": (
        _("the ISO %(iso)s in the drive is not on node %(node)s"),
        _("distribute it to that node, or eject it"),
    ),
    "snapshots_stay": (
        _("%(vm)s has snapshots, and node %(node)s does not see its disks: snapshots do not go along with a copy"),
        _("delete the snapshots, or move its disks to storage that both nodes see"),
    ),
    "pool_takes_no_copy": (
        _("QEMU cannot copy a disk into pool %(pool)s while a guest moves to node %(node)s"),
        _("choose a pool of files or of LVM volumes there"),
    ),
    "disk_unknown": (_("the VM has no disk %(disk)s"), _("name its disks by their ids")),
    "cannot_be_emptied": (
        _("%(count)s VMs of node %(node)s can go nowhere: %(names)s"),
        _("make room elsewhere, or say what becomes of them: leave or stop"),
    ),
    "moves_hindered": (
        _("%(count)s VMs could not be moved: %(why)s"),
        _("mend that and ask again; what has moved can be put back"),
    ),
    "came_meanwhile": (
        _("%(count)s VMs came to node %(node)s while it was being emptied: %(names)s"),
        _("evacuate it again"),
    ),
    "nothing_to_put_back": (
        _("no VM was moved away from node %(node)s, and it is not in maintenance"),
        "",
    ),
    "moved_meanwhile": (_("%(vm)s was moved to node %(node)s meanwhile"), _("ask for it again")),
    "domain_here": (
        _("the other node has a domain of this VM already; it was left untouched"),
        _("look at it there: an earlier move may have left it behind"),
    ),
    "move_failed": (
        _("the guest did not move, and goes on where it was"),
        _("look at the domain's log on both nodes"),
    ),
    "move_no_room": (
        _("pool %(pool)s on node %(node)s was full before the guest was over there; it goes on where it was"),
        _("free something there, or choose another pool or another node; then move it again"),
    ),
    "move_time_limit": (
        _("the guest had not moved within %(limit_s)s s, and goes on where it was"),
        _("allow more time or a longer pause, or choose auto-converge or post-copy"),
    ),
    "path_closed": (
        _("the node %(node)s takes nothing from the other one"),
        _("look at the network between the two nodes, and at what filters it"),
    ),
    "move_unknown": (_("the node does not know what became of the move"), _("both nodes are asked where the guest is")),
    "domain_state": (
        _("the domain is in a state in which this cannot be done"),
        _("look at the VM, then ask again"),
    ),
    "disks_differ": (
        _("the guest that runs has other disks than its definition"),
        _("restart the VM, then move it"),
    ),
    # Storage
    "no_room": (
        _("no room in pool %(pool)s on %(node)s: %(free)s free, %(needed)s needed"),
        _("ask for a smaller disk, free something, or choose another pool"),
    ),
    "no_pool": (_("node %(node)s has no storage pool in service"), _("add a pool to it, or choose another node")),
    "pool_elsewhere": (_("pool %(pool)s is not on node %(node)s"), _("choose another pool or another node")),
    "pool_unknown": (_("there is no such pool"), _("choose one from the list")),
    "size_too_small": (
        _("the disk (%(asked)s) is smaller than the image %(image)s (%(needed)s)"),
        _("ask for at least %(needed)s"),
    ),
    "image_unknown": (_("there is no such image"), _("choose one from the list")),
    "image_absent": (
        _("image %(image)s is not on node %(node)s"),
        _("choose a node that has it, or put the file into that node's image folder"),
    ),
    "file_suffix": (
        _("the name %(name)s does not say what it is"),
        _("let it end in one of %(suffixes)s"),
    ),
    "file_name_taken": (_("there is already a file named %(name)s"), _("choose another name, or delete that one")),
    "upload_under_way": (
        _("%(name)s is being uploaded already (%(upload)s)"),
        _("go on with that upload, or give it up first"),
    ),
    "upload_too_large": (
        _("the file (%(size)s) is larger than the panel takes (%(most)s)"),
        _("put it into the nodes' folders by hand, or raise ULEI_UPLOAD_MOST_BYTES"),
    ),
    "upload_wrong_offset": (
        _("this chunk begins at byte %(offset)s, but the next one begins at byte %(expected)s"),
        _("go on from byte %(expected)s"),
    ),
    "upload_too_long": (
        _("the chunk goes beyond the end of the file that was promised (%(most)s)"),
        _("begin anew with the right size"),
    ),
    "upload_busy": (
        _("another chunk of this upload is being taken"),
        _("wait until it is there, then ask how far it is"),
    ),
    "no_room_on_panel": (
        _("no room on the panel's machine: %(free)s free, %(needed)s needed for all uploads"),
        _("delete images or ISOs that nobody needs, or free something there"),
    ),
    "file_not_stored": (
        _("%(name)s was found on nodes; the panel itself has no file of it"),
        _("upload it under another name, or copy it to the node's folder by hand"),
    ),
    "file_found": (
        _("%(name)s was put into the nodes' folders by hand"),
        _("remove it there; the panel deletes only what it brought"),
    ),
    "file_has_disks": (
        _("disks of VMs are made from %(name)s"),
        _("delete those VMs first, or let it stay"),
    ),
    "file_going": (_("%(name)s is being deleted"), _("choose another one")),
    "file_coming": (_("%(name)s is still on its way to the panel"), _("wait for its job")),
    "url_unfit": (
        _("this is not an address from which files are downloaded"),
        _("it begins with http:// or https:// and has a host, but neither a user nor a password"),
    ),
    "name_needed": (
        _("the name in the address (%(found)s) is no name for a file here"),
        _("give it a name"),
    ),
    "no_node_online": (_("no node is online"), _("wait until one is back")),
    "address_refused": (
        _("%(host)s has the address %(addresses)s, from which nothing is downloaded"),
        _("if it is a mirror of yours, allow its network: ULEI_DOWNLOAD_NETWORKS"),
    ),
    "download_refused": (
        _("the server does not give the file as it is: %(why)s"),
        _("look at the address; another server may have the file, too"),
    ),
    "certificate_expired": (
        _("the certificate of %(host)s has expired, so nobody knows whether it is that server"),
        _("let its owner renew it, look at the node's clock, or take the file from another server"),
    ),
    "certificate_early": (
        _("the certificate of %(host)s is not valid yet, so nobody knows whether it is that server"),
        _("look at the node's clock; if it is right, take the file from another server"),
    ),
    "certificate_other_host": (
        _("what answers at %(host)s shows a certificate for another name"),
        _("look at the address: the name in it must be one of those in the certificate"),
    ),
    "certificate_unknown": (
        _("the certificate of %(host)s is from nobody whom the node trusts"),
        _(
            "if it is a server of yours, put its CA's certificate into /usr/local/share/ca-certificates on every node"
            " and run update-ca-certificates there"
        ),
    ),
    "certificate_unfit": (
        _("the certificate of %(host)s is not good enough: %(why)s"),
        _("let its owner replace it, or take the file from another server"),
    ),
    "no_tls": (
        _("%(host)s does not speak TLS as it should: %(why)s"),
        _("look at the address: is it https:// there, and is the port right?"),
    ),
    "download_broken": (
        _("the connection to the server broke, and for a minute nothing came"),
        _("start it again later, or from another server"),
    ),
    "download_too_large": (
        _("the file is larger than the panel takes (%(most)s)"),
        _("put it into the nodes' folders by hand, or raise ULEI_UPLOAD_MOST_BYTES"),
    ),
    "file_absent": (_("the file is not on the node any more"), _("start it again")),
    "file_not_taken": (
        _("the panel did not take the file from the node"),
        _("start it again; look at the panel's log"),
    ),
    "no_guestfs": (
        _("the node cannot look into images: python3-guestfs or a kernel is missing"),
        _("install both there and check the node again, or make the image without generalising it"),
    ),
    "guest_unsupported": (
        _("there is no Linux in the disk, or more than one, so it cannot be generalised"),
        _("make the image without generalising it; clean the guest by hand before"),
    ),
    "disk_elsewhere": (_("disk %(disk)s has another VM than when this was asked"), _("ask for it again")),
    "copies_everywhere": (_("every node that was asked for has %(name)s already"), _("there is nothing to do")),
    "file_in_use": (_("the file is in use: %(used_by)s"), _("delete those first")),
    "file_name_reserved": (
        _("a file of this name could be the volume of a disk"),
        _("upload it by another name"),
    ),
    "file_refused": (_("the panel did not give the file to the node"), _("start it again; look at the panel's log")),
    "panel_unreachable": (
        _("the node does not reach the panel's file listener"),
        _("is that port of the panel open from that node?"),
    ),
    "wrong_panel": (
        _("the panel's file listener shows the node another certificate than that of the cluster; nothing was sent"),
        _("join the node again if the panel was installed anew; else somebody stands between them"),
    ),
    "checksum_differs": (
        _("%(name)s has the checksum %(found)s, not %(promised)s as promised; it was deleted"),
        _("bring it here again; if it happens again, the file itself is not the one that was meant"),
    ),
    "not_an_iso": (_("%(name)s holds neither an ISO 9660 nor a UDF file system"), _("upload an ISO image")),
    "image_other_format": (
        _("the content of %(name)s is %(found)s"),
        _("an image is qcow2 or raw, and its name says which: convert or unpack it first"),
    ),
    "image_has_backing": (
        _("%(name)s rests on another file, which would be read as a disk"),
        _("write it out whole first: qemu-img convert -O qcow2"),
    ),
    "image_has_data_file": (
        _("%(name)s keeps its data in another file, which would be read as a disk"),
        _("write it out whole first: qemu-img convert -O qcow2"),
    ),
    "image_encrypted": (_("%(name)s is encrypted"), _("decrypt it first: qemu-img convert")),
    "image_has_snapshots": (
        _("%(name)s has snapshots in it"),
        _("write it out without them first: qemu-img convert -O qcow2"),
    ),
    "image_damaged": (
        _("the qcow2 header of %(name)s makes no sense (%(why)s)"),
        _("look at it with qemu-img check, and upload it again"),
    ),
    "iso_unknown": (_("there is no such ISO"), _("choose one from the list")),
    "image_and_iso": (_("a VM begins from an image or from an ISO, not from both"), _("leave one of them out")),
    "disk_needed": (_("a VM from an image needs at least one disk"), _("add a disk")),
    "disks_param": (
        _("say whether the VM's disks are deleted too"),
        _("send {“disks”: true} to delete them, false to keep them"),
    ),
    "disk_in_use": (_("the disk is in use: %(used_by)s"), _("detach it there first")),
    # Networks
    "network_unknown": (_("there is no such network"), _("choose one from the list")),
    "network_name_taken": (_("there is already a network named %(name)s"), _("choose another name")),
    "range_overlaps": (
        _("the range %(first)s to %(last)s overlaps another of network %(network)s"),
        _("choose addresses that no other range has"),
    ),
    "address_taken": (_("address %(address)s is taken"), _("choose another, or leave it out to get the next free one")),
    "address_outside": (
        _("address %(address)s is in no range of network %(network)s"),
        _("choose one from a range, or leave it out"),
    ),
    "no_address": (_("network %(network)s has no free address"), _("add a range to it, or free an address")),
    "mac_taken": (_("MAC address %(mac)s is taken"), _("choose another, or leave it out")),
    "mac_not_unicast": (_("%(mac)s is not a unicast MAC address"), _("the second hexadecimal digit must be even")),
    # VMs
    "name_taken": (_("there is already a VM named %(name)s in this tenant"), _("choose another name")),
    "protected": (_("VM %(vm)s is protected from deletion"), _("take the protection off first")),
    "state": (_("VM %(vm)s is %(state)s"), _("this needs it to be: %(needed)s")),
    "state_io_error": (
        _("paused: its storage has no room, or gives I/O errors"),
        _("make room there (grow the thin pool, delete what nobody needs) or mend the storage, then resume the guest"),
    ),
    "state_pool_full": (
        _("paused: pool %(pool)s has no room left"),
        _("make room in %(place)s (add to the storage, delete or move what nobody needs), then resume the guest"),
    ),
    "state_thin_pool_full": (
        _("paused: thin pool %(pool)s is full"),
        _("grow it (%(command)s on its node), or delete disks and snapshots in it, then resume the guest"),
    ),
    "state_gone": (
        _("gone from its node: somebody deleted its domain there, or moved it"),
        _("its disks are untouched: write its definition again, and it can be started"),
    ),
    "vm_claimed": (
        _("%(node)s shows the guest of VM %(vm)s too, although it does not belong there"),
        _("say on the VM's card that it is right there, or end and undefine it there (virsh), then try again"),
    ),
    "vm_no_claim": (_("no other node shows the guest of VM %(vm)s"), _("there is nothing to decide")),
    "vm_in_work": (_("a job has left VM %(vm)s in the state “%(state)s”"), _("look at its last job first")),
    "vm_claimed_often": (
        _("more than one other node shows the guest of VM %(vm)s: %(node)s"),
        _("end and undefine it (virsh) on all of them but one"),
    ),
    "claim_elsewhere": (
        _("that node does not show the guest of VM %(vm)s; these do: %(node)s"),
        _("choose one of them"),
    ),
    "claim_other_storage": (
        _("node %(node)s does not have every pool in which VM %(vm)s has disks: what it shows has other ones"),
        _("end and undefine it there (virsh), or add the pools to that node"),
    ),
    "claim_both_run": (
        _("the guest of VM %(vm)s runs on %(node)s and on %(other)s: nothing was touched"),
        _("end it at once where it should not run (virsh destroy on that node), then ask again; look at its disks"),
    ),
    "claim_unclear": (
        _(
            "what both nodes show leaves open where the guest of VM %(vm)s is: %(node)s says “%(here)s”, %(other)s"
            " says “%(there)s”; nothing was touched"
        ),
        _("end it on the node where it should not be (virsh destroy), or undefine it there, then ask again"),
    ),
    "claim_other_disks": (
        _("the domain on %(other)s does not have the disks of VM %(vm)s: it is another guest of that name"),
        _("end and undefine it on %(other)s (virsh)"),
    ),
    "vm_moved_by_hand": (
        _("VM %(vm)s was moved by hand, and %(node)s still holds its lease and filter"),
        _("write its definition again first"),
    ),
    "could_be_elsewhere": (
        _("VM %(vm)s could run on %(node)s, which sees its disks and is offline"),
        _("bring that node back first"),
    ),
    "vm_no_drift": (
        _("the definition of VM %(vm)s is there on its node as the panel has it"),
        _("there is nothing to take over"),
    ),
    "drift_foreign": (
        _("%(drift_field)s was given to VM %(vm)s by hand, and is none of the panel's"),
        _("write the definition again, which takes it away, and add one in the panel instead"),
    ),
    "drift_missing": (
        _("%(drift_field)s was taken from VM %(vm)s by hand"),
        _("write the definition again, which gives it back, and remove it in the panel if that was meant"),
    ),
    "drift_not_held": (
        _("%(drift_field)s of VM %(vm)s cannot be so in the panel"),
        _("write the definition again: then the node has it as the panel does"),
    ),
    "no_strangers": (_("the panel knows every domain of node %(node)s"), _("there is nothing to take over")),
    "stranger_unknown": (
        _("node %(node)s shows no such domain that the panel does not know"),
        _("let the node be inspected, and choose one from the list"),
    ),
    "stranger_foreign": (
        _("the id in the name of the domain %(domain)s on node %(node)s belongs to another VM"),
        _("rename the domain on the node (virsh domrename), and let the node be inspected"),
    ),
    "stranger_needs_name": (
        _("the name of the domain %(domain)s on node %(node)s cannot be the name of a VM"),
        _("name the VM: 1 to 63 of a-z, 0-9 and -"),
    ),
    "stranger_runs": (
        _("the domain %(domain)s runs, and it or its volumes would get other names, which a guest that runs cannot"),
        _("shut the guest down first, then take it over and start it in the panel"),
    ),
    "stranger_beyond": (
        _("the domain %(domain)s has what a VM of the panel cannot have: %(what)s"),
        _("take that out of its definition on the node (virsh edit), if the guest can do without it"),
    ),
    "stranger_device": (
        _("%(place)s of the domain %(domain)s is on %(bus)s, which a VM of the panel cannot have"),
        _("change the bus on the node (virsh edit) to virtio, scsi, sata or ide, or take the disk out"),
    ),
    "stranger_format": (
        _("the domain %(domain)s reads the volume %(name)s as %(format)s, and its content is of another format"),
        _("correct the format in its definition on the node (virsh edit), if the guest starts with it"),
    ),
    "stranger_keeps_name": (
        _("the domain %(domain)s on node %(node)s keeps its name when it is taken over"),
        _("leave the name out"),
    ),
    "stranger_disk": (
        _("%(place)s of the domain %(domain)s is no volume of a pool that the panel has on this node"),
        _("add that storage to the panel as a pool first, let the node be inspected, and try again"),
    ),
    "disk_taken": (
        _("disk %(disk)s belongs to another VM or to a backup, or lies in the trash"),
        _("look at it in the list of disks"),
    ),
    "disk_not_ours": (
        _("the volume of disk %(disk)s does not carry the panel's mark"),
        _("look at it on the node: it may be a file that was put there by hand"),
    ),
    "stranger_network": (
        _("no network, or more than one, is on the bridge %(bridge)s of the interface %(mac)s"),
        _("say which network it is"),
    ),
    "stranger_changed": (
        _("the domain %(domain)s has changed since it was looked at"),
        _("let the node be inspected, and try again"),
    ),
    "vm_unknown_state": (
        _("the state of VM %(vm)s is unknown: its node %(node)s is offline"),
        _("wait until the node is back"),
    ),
    "tenant_unknown": (_("there is no such tenant"), _("choose one from the list")),
    "os_unknown": (_("the OS catalogue has no “%(os)s”"), _("choose one from the list, or leave it out")),
    "cloud_init_unsupported": (_("cloud-init is not available yet"), _("leave cloud_init out")),
    # Backup and restore of the panel
    "restored": (
        _("the job was open when the backup of %(when)s was made, from which the panel was put back"),
        _("look at what the node shows: then resolve the job, or let it try again"),
    ),
    "overtaken": (
        _("the node has gone on with %(object)s after the backup from which the panel was put back"),
        _("an administrator resolves the job after a look at the node"),
    ),
    "file_exists": (_("%(file)s exists already"), _("name a new file")),
    "folder_absent": (_("there is no folder %(folder)s"), _("make it, or name another")),
    "backup_unreadable": (_("%(file)s is not a backup of the panel"), _("name a file of panel_backup")),
    "backup_damaged": (
        _("the backup is damaged: “%(part)s” is not what its manifest says"),
        _("nothing was touched; take another copy of the file, or an earlier backup"),
    ),
    "backup_newer": (
        _("the backup is from a newer panel (%(version)s); this one is %(own)s and lacks: %(newer)s"),
        _("install that version of the panel first"),
    ),
    "other_database": (
        _("the backup is one of %(backup)s, and this installation uses %(own)s"),
        _("set or leave out DATABASE_URL so that the kinds are the same"),
    ),
    "not_empty": (
        _("there is a panel here already: %(found)s"),
        _("--replace sets it aside, and deletes nothing"),
    ),
    "panel_runs": (
        _("the panel runs: its %(process)s holds %(held)s"),
        _("stop web, enrolment and conductor first"),
    ),
    "no_disk_room": (_("no room in %(folder)s: %(free)s free, %(needed)s needed"), _("free some space")),
    "migration_failed": (
        _("the database of the backup could not be brought to this version: %(words)s"),
        _("nothing was changed; install the version of the panel that made the backup"),
    ),
    "database_program_missing": (
        _("%(program)s of PostgreSQL %(version)s is not installed here"),
        _("install the package postgresql-client-%(version)s"),
    ),
    "database_program_failed": (_("%(program)s failed: %(words)s"), _("nothing was changed; look at the server's log")),
    # Requests
    "idempotency_mismatch": (
        _("this Idempotency-Key was used for another request"),
        _("use a key of its own for each request"),
    ),
    # What a node says. Where a text names no fact, the node's own English words follow it in brackets.
    "guest_did_not_shut_down": (
        _("the guest did not shut down within %(timeout_s)s s of the ACPI signal"),
        _("give it more time, or stop it by force"),
    ),
    "exists_not_ours": (
        _("on the node there is already something of that name that is not ours; it was not touched"),
        _("look at it on the node, and move it away or choose another name"),
    ),
    "exists_other_size": (
        _("the volume is there already with another size"),
        _("look at it on the node before you try again"),
    ),
    "disk_absent": (
        _("the volume is not there"),
        _("if somebody deleted it, restore a backup; deleting the disk clears its line"),
    ),
    "volume_gone": (
        _("the volume of disk %(disk)s is gone"),
        _("restore a backup of the VM; deleting the disk clears its line"),
    ),
    "volume_shrunk": (
        _("the volume of disk %(disk)s has %(seen)s, less than the panel has (%(size)s): what lay behind is lost"),
        _("look at the guest's file system, and restore a backup"),
    ),
    "no_drift": (_("disk %(disk)s is on its node as the panel has it"), _("there is nothing to do")),
    "disk_damaged": (_("the volume cannot be read"), _("look at it on the node with qemu-img")),
    "backing_invalid": (_("the image cannot be used"), _("look at the image on the node with qemu-img")),
    "pool_identity": (
        _("the pool on the node is not the one that the panel knows"),
        _("is the right storage mounted there?"),
    ),
    "pool_absent": (_("there is no such pool on the node"), _("is the right storage there, and does its key fit?")),
    "pool_unreachable": (
        _("the pool does not answer"),
        _("look at the storage cluster and the network to it; the operation goes on when it is back"),
    ),
    "pool_not_there": (_("pool %(pool)s is not on that node"), _("choose a node that has it, or none")),
    "volume_absent": (
        _("the pool has no volume of that name"),
        _("look at the list on the pool's page; the node looks anew when it is checked"),
    ),
    "volume_taken": (_("the volume is a disk or an image already; it was left untouched"), _("choose another one")),
    "volume_unfit": (
        _("the volume cannot become a disk"),
        _("convert it beside the pool first: qemu-img convert, rbd flatten, or lvcreate and dd"),
    ),
    "disk_attached": (_("disk %(disk)s belongs to VM %(vm)s"), _("detach it first")),
    "disk_of_other_tenant": (
        _("disk %(disk)s and VM %(vm)s belong to different tenants"),
        _("choose a VM of the disk's tenant"),
    ),
    "disk_has_snapshots": (
        _("disk %(disk)s is part of its VM's snapshots"),
        _("delete the snapshots first"),
    ),
    "move_leaves_snapshots": (
        _("snapshots of disk %(disk)s lie with its volume and would not come along: %(count)s"),
        _("delete them first; a backup or a clone of the VM keeps what the disk has now"),
    ),
    "disk_has_clones": (
        _("linked clones rest on disk %(disk)s: %(clones)s"),
        _("delete them first, or make them independent"),
    ),
    "disk_independent": (_("disk %(disk)s rests on no other"), _("there is nothing to do")),
    "linked_stays": (
        _("a linked clone lies in the storage of its source"),
        _("choose no storage, or ask for a full copy"),
    ),
    "linked_unsupported": (
        _("disk %(disk)s (%(format)s, pool %(pool)s) can have no linked clones"),
        _("ask for a full copy, or move the disk to Ceph or a thin pool first"),
    ),
    "too_many_disks": (_("%(vm)s has %(most)s disks already, and may have no more"), _("detach one first")),
    "vm_unknown": (_("there is no such VM"), _("choose one from the list")),
    "vm_needed": (_("say for which VM the disk is"), _("choose one from the list")),
    "pool_needed": (_("a disk without a VM needs a pool"), _("choose one from the list")),
    "pool_nowhere": (_("pool %(pool)s is on no node"), _("join the node that has it again")),
    "format_unsupported": (
        _("pool %(pool)s holds no disks of the format %(format)s"),
        _("choose one of: %(formats)s"),
    ),
    "drive_empty": (_("no ISO lies in a drive of %(vm)s"), _("choose an ISO to put one in")),
    "plug_failed": (_("the guest could not take the disk"), _("look at the VM's log on the node")),
    "medium_failed": (
        _("the ISO in the drive of the guest that runs could not be changed"),
        _("the guest may have locked its drive: eject it from inside first"),
    ),
    "disk_unattached": (_("disk %(disk)s belongs to no VM"), _("attach it to a VM first")),
    "disk_not_ready": (_("disk %(disk)s is still being made, or goes"), _("wait for its job")),
    "not_a_number": (_("“%(typed)s” is not a whole number"), _("write digits only")),
    "disk_is_there": (
        _("disk %(disk)s is in pool %(pool)s already, as %(format)s"),
        _("choose another pool or another format"),
    ),
    "disk_changed": (_("disk %(disk)s is not as it was when this was asked"), _("ask for it again")),
    "pools_share_names": (
        _("%(pool)s and %(source)s lie in one volume group, where a volume of the disk's name is there already"),
        _("move it by way of another pool"),
    ),
    "pools_apart": (
        _("no node sees both %(pool)s and %(source)s, where the disk is"),
        _("choose another pool, or attach the disk to a VM there"),
    ),
    "mirror_failed": (
        _("the copying of the disk of a guest that runs did not reach its end"),
        _("is the guest on, and is there room? look at the VM's log on the node"),
    ),
    "mirror_lost": (_("the guest's QEMU does not copy the disk any more"), _("ask for the move again")),
    "disk_in_trash": (_("disk %(disk)s lies in the trash"), _("attach it to a VM, and it is a disk like any other")),
    "not_a_size": (_("“%(typed)s” is not a size"), _("type for example 20 GB or 512 MB")),
    "node_unknown": (_("there is no such node"), _("choose one of the list")),
    "pool_name_taken": (_("a pool named %(name)s exists"), _("choose another name")),
    "pools_differ": (_("the nodes show different storage at %(path)s"), _("make a pool for each of them")),
    "pool_known": (_("what is at %(path)s is the pool %(name)s already"), _("use that one")),
    "path_not_absolute": (_("%(path)s is not a whole path"), _("begin with /")),
    "not_a_thin_pool": (_("%(path)s does not name a thin pool"), _("write <volume group>/<thin pool>")),
    "ceph_needs_access": (
        _("the Ceph pool %(path)s cannot be reached without monitors, a user and its key"),
        _("give all three: ceph mon dump, ceph auth get client.<user>"),
    ),
    "too_many_stripes": (
        _("%(path)s has %(most)s physical volumes: no volume can lie over %(stripes)s"),
        _("choose at most %(most)s stripes"),
    ),
    "pool_in_work": (_("%(name)s is being added or removed"), _("wait for its job")),
    "pool_out_of_service": (
        _("pool %(pool)s is out of service and takes no new disks"),
        _("choose another pool, or put it back into service"),
    ),
    "default_needed": (
        _("node %(node)s puts new disks into %(pool)s unless told otherwise"),
        _("make another pool the default of that node instead"),
    ),
    "size_off_grid": (
        _("pool %(pool)s takes exact sizes only, and %(asked)s is no multiple of %(granule)s"),
        _("choose %(below)s or %(above)s"),
    ),
    "size_below_grid": (
        _("pool %(pool)s takes exact sizes only, and %(asked)s is no multiple of %(granule)s"),
        _("choose %(above)s"),
    ),
    "pool_of_node": (_("%(name)s is its node's folder of images"), _("remove the node instead")),
    "pool_has_disks": (_("%(name)s has disks in it: %(count)s"), _("move or delete them first")),
    "image_needs_folder": (
        _("pool %(pool)s takes no disks from images: %(image)s lies in a folder"),
        _("choose a pool that is a folder, or begin with an ISO"),
    ),
    "would_shrink": (
        _("the disk has %(size)s already and would become smaller (%(asked)s): what lies behind would be lost"),
        _("ask for at least %(size)s"),
    ),
    "too_many_schedules": (_("%(vm)s has %(most)s schedules already, and may have no more"), _("remove one first")),
    "too_many_snapshots": (
        _("%(vm)s has %(most)s snapshots already, and may have no more"),
        _("delete one that nobody needs"),
    ),
    "no_disks": (_("%(vm)s has no disks"), _("add a disk first")),
    "snapshots_unsupported": (
        _("disk %(disk)s (%(format)s, pool %(pool)s) can have no snapshots"),
        _("move the disk to a pool that has them, as qcow2 or a volume"),
    ),
    "snapshot_needs_stop": (
        _("snapshots of disk %(disk)s (pool %(pool)s) change only while the guest is off"),
        _("shut the VM down first"),
    ),
    "backup_not_ready": (_("backup %(backup)s is still being made, or goes"), _("wait for its job")),
    "backup_needs_stop": (
        _("%(vm)s runs, and a copy of its disks can be written into pool %(pool)s only while it is off"),
        _("choose a pool of files or of volumes, or shut it down first"),
    ),
    "backup_failed": (_("the copy of the disks did not reach its end"), _("look at the VM's log on the node")),
    "disks_changed": (_("the disks of %(vm)s are others than when this was asked"), _("ask for it again")),
    "disks_pending": (
        _("a disk of %(vm)s comes to its guest, or goes from it, only when that is off"),
        _("shut the VM down first"),
    ),
    "snapshot_not_ready": (_("snapshot %(snapshot)s is still being made, or goes"), _("wait for its job")),
    "revert_needs_stop": (
        _("%(vm)s runs, and its memory belongs to the content that goes"),
        _("shut it down first, or allow to stop it by force"),
    ),
    "quiesce_needs_running": (
        _("%(vm)s is paused: the agent inside cannot be asked to let its file systems stand still"),
        _("resume it first, or ask without that"),
    ),
    "guest_agent_silent": (
        _("the agent inside the guest did not let its file systems stand still"),
        _("install qemu-guest-agent in the guest and start it, or ask without that"),
    ),
    "memory_needs_running": (
        _("%(vm)s does not run, so it has no memory that could be kept"),
        _("start it first, or leave the memory out"),
    ),
    "memory_unsupported": (
        _("disk %(disk)s (%(format)s, pool %(pool)s) cannot keep the guest's memory"),
        _("leave the memory out, or move every disk of the VM to a folder as qcow2"),
    ),
    "hardware_changed": (
        _("%(vm)s has other disks, interfaces, memory or CPUs than when snapshot %(snapshot)s was taken"),
        _("go back to the disks alone, without the memory"),
    ),
    "memory_not_loaded": (
        _("the guest could not go on from the memory that was kept: it began anew from its disks of then"),
        _("delete the snapshot if it is of no use without the memory; the VM's log on the node says why"),
    ),
    "has_snapshots": (
        _("%(vm)s has snapshots, which would be left over in its disks"),
        _("delete the disks too, or the snapshots first"),
    ),
    "snapshot_failed": (
        _("the guest's QEMU could not change the snapshots of a disk"),
        _("look at the VM's log on the node"),
    ),
    "snapshots_hinder": (
        _("the disk cannot grow while it has snapshots"),
        _("delete its snapshots first"),
    ),
    "snapshot_absent": (_("the snapshot is not there"), _("look at the snapshots of the disk on the node")),
    "unsupported": (_("this kind of storage or VM cannot do that"), _("choose another kind")),
    "pool_unfit": (
        _("the folder cannot be a pool"),
        _("it needs a file system with user extended attributes, such as ext4 or XFS"),
    ),
    "pool_kind": (_("the node's agent does not know this kind of pool"), _("update the agent on that node")),
    "iso_absent": (_("the ISO is not on the node"), _("put it into the node's ISO folder")),
    "iso_outside_folder": (
        _("the ISO does not lie in the node's ISO folder itself"),
        _("put the file there; links out of the folder are not followed"),
    ),
    "bridge_absent": (_("the node does not have the bridge"), _("make it there, or choose another network")),
    "domain_active": (_("the domain runs"), _("stop it first")),
    "domain_not_active": (_("the domain does not run"), _("start it first")),
    "domain_keeps_state": (
        _("libvirt keeps snapshots or a saved memory of the domain"),
        _("delete its snapshots on the node (virsh snapshot-delete), and let it start and shut down once"),
    ),
    "domain_absent": (_("the node does not know the domain"), _("look at the history of the VM")),
    "domain_migrating": (_("the domain is being moved"), _("wait until the move has ended")),
    "domain_busy": (
        _("libvirt waits for an earlier call into this guest's QEMU, which may hang"),
        _("look at that QEMU on the node, or stop the VM by force"),
    ),
    "start_failed": (_("libvirt could not start the guest"), _("look at the domain's log on the node")),
    "libvirt_error": (_("libvirt refused"), _("look at libvirtd's log on the node")),
    "libvirt_unreachable": (_("libvirt on the node does not answer"), _("look at libvirtd on that node")),
    "libvirt_lost": (
        _("the connection to libvirt broke before it answered"),
        _("the node waits until libvirt holds no call any more, and is asked again by itself"),
    ),
    "command_timeout": (_("a command on the node took too long"), _("look at the agent's log on that node")),
    "command_failed": (_("a command on the node failed"), _("look at the agent's log on that node")),
    "no_program": (_("a program that the agent needs is missing on the node"), _("install it there")),
    "bad_message": (_("the node could not read the message"), _("do the versions of panel and agent fit?")),
    "too_old": (_("the node's agent is too old for this"), _("update the agent on that node")),
    "agent_error": (_("an internal error of the node's agent"), _("look at the agent's log on that node")),
}

_SIZES = frozenset({"free", "whole", "needed", "asked", "size", "seen", "most", "granule"})
_TYPED = frozenset({"below", "above"})
"""Sizes that people type as they read them."""


def _word(name: str, value: Any, language: Literal["ru", "en"]) -> Any:
    """A fact as people call it."""
    if isinstance(value, list | tuple):
        return ", ".join(str(_word(name, one, language)) for one in value)
    if name in _SIZES and isinstance(value, int) and value >= 1024:
        return format_size(value, language)
    if name in _TYPED and isinstance(value, int):
        return format_exact(value, language)
    if name in ("state", "needed") and value in VmState.values:
        return VmState(value).label
    if name == "policy" and value in AffinityPolicy.values:
        return AffinityPolicy(value).label
    if name == "drift_field":
        from . import domain_drift  # it stands on this module

        return domain_drift.name_of(value)
    if name == "role" and value in Role.values:
        return Role(value).label
    if name == "action":
        from .saga.steps import Operation  # it stands on this module

        return Operation.registry[value].label if value in Operation.registry else value
    return value


def say(code: str, facts: Mapping[str, Any]) -> tuple[str, str]:
    """``(cause, hint)`` in the active language; empty strings where there is no text or a fact is missing."""
    language: Literal["ru", "en"] = "en" if (get_language() or "ru").startswith("en") else "ru"
    words = {name: _word(name, value, language) for name, value in facts.items()}
    cause, hint = TEXTS.get(code, ("", ""))
    try:
        return (gettext(cause) % words if cause else "", gettext(hint) % words if hint else "")
    except KeyError:
        return "", ""
