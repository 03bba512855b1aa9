# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's face on D-Bus, and what it does without being called.

::

    names            bus name, object paths, interfaces, polkit actions
    message          headers of D-Bus messages
    descriptors      which descriptors may be read, and how they are closed
    gate             keeps what is too large or too much away from the daemon
    incoming         what comes from the bus, cut into messages
    outgoing         what goes to the bus, the gate's own messages among it
    outbox           what is to be sent to one side
    callers          whose the connections to the bus are
    calls_under_way  how many calls a user has under way
    connection       the connection to the bus, with the gate in it
    interface        a class body is an interface; its XML comes from it
    wrapper          pydbus's object wrapper with deferred replies, descriptors and error names
    invocation       releases a method call that was answered
    errors           refusals of every method, and error names read back
    loop             one source of the GLib loop, for whatever is to be called
    coroutines       coroutines on the GLib loop, a worker thread, turns
    polkit           authorization
    objects          which objects are on the bus now

    manager          the root object
    update           an update as an object
    job              a transition as an object

    engine_worker    the engine, and the one thread that it is used from
    stuck_watch      whether that thread still gets on
    jobs             apply and undo, one at a time
    running_job      one transition, followed to its end
    stage_watch      the kernel's notice that a transition may have ended
    shown            the updates and jobs on the bus, kept equal to store and kernel
    events           the engine's events, to the journal and the bus
    reconciler       reconciles with the kernel at the start and when others changed it

    automatic        applies what was dropped, undoes what is superseded, by policy
    drop_watch       the drop directory
    module_watch     modules of updates that others load or unload
    soak_watch       updates in their soak time
    kernel_log       /dev/kmsg on the loop
    patient_undo     undoes what no caller waits for, until it is done
    catch_up         writes down what could not be written before
    pauses           how long until what failed is tried again
    undo_on_warning  records the kernel's complaints, and undoes their updates by policy
    tripwire_watch   hits of tripwires

    service          wires all of these together

Nothing here verifies, loads or records an update: that is ``ksplicd.host.engine``.
"""
