"""The paths that people take: sign in, create a VM, watch it, switch it off, delete it."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, Site


def test_sign_in_with_a_wrong_and_a_right_password_and_out_again(visit: Open) -> None:
    one = visit()
    one.allow("422")
    page = one.go("/jobs/")
    expect(page).to_have_url(re.compile("/sign-in/"))
    page.locator("#username").fill(one.site.username)
    page.locator("#password").fill("wrong")
    page.get_by_role("button", name="Войти").click()
    expect(page.get_by_role("alert")).to_have_text("Имя или пароль неверны.")
    expect(page.locator("#username")).to_have_value(one.site.username)
    page.locator("#password").fill(one.site.password)
    page.get_by_role("button", name="Войти").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Задания")
    page.get_by_role("button", name="Выйти").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Вход в панель")


def test_a_vm_is_created_with_its_check_beside_watched_live_and_deleted(visit: Open) -> None:
    one = visit().sign_in()
    one.allow("htmx:(afterRequest|sendAbort)")  # a check that was under way when the form was sent
    page = one.page
    page.get_by_role("link", name="Создать ВМ").first.click()
    check = page.locator("#check")
    expect(check).to_contain_text("Осталось ввести имя")
    page.get_by_label("Имя").fill("Плохое имя")
    expect(page.locator("#e-name")).to_contain_text("a–z, цифры и дефис")
    expect(page.get_by_label("Имя")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Имя").fill("browser-1")
    page.get_by_label("Название").fill("Проверка <b> & «кавычки»")
    page.get_by_label("Память").fill("128 МБ")
    page.get_by_label("Размер").fill("900 ТБ")
    expect(check).to_contain_text("Создать нельзя")
    page.get_by_label("Размер").fill("134200000 Б")
    expect(check).to_contain_text("Можно создавать")
    expect(check).to_contain_text("округлено вверх до кратного")
    expect(check).to_contain_text("Узел")
    page.get_by_role("button", name="Создать").last.click()

    expect(page).to_have_url(re.compile("/jobs/"))
    expect(page.locator("#job .strip-state")).to_contain_text("успешно")
    expect(page.locator(".step-done")).to_have_count(page.locator(".step").count())
    page.get_by_role("link", name="К browser-1").click()
    expect(page.locator(".strip-state")).to_contain_text("работает")
    expect(page.locator("#vm-card")).to_contain_text("Проверка <b> & «кавычки»")

    page.get_by_role("link", name="Удалить: browser-1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("ВМ browser-1")
    expect(dialog).to_contain_text("диск 128")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("link", name="Удалить: browser-1").click()
    dialog.get_by_role("button", name="Удалить").click()
    expect(page).to_have_url(re.compile("/jobs/"))
    expect(page.locator("#job .strip-state")).to_contain_text("успешно")


@pytest.fixture(scope="module")
def vm(site: Site) -> dict[str, str]:
    return site.create_vm("browser-power")


def test_power_buttons_act_live_and_say_why_they_cannot(visit: Open, vm: dict[str, str]) -> None:
    page = visit().sign_in().page
    row = page.locator(f"#vm-{vm['id']}")
    start = row.get_by_role("button", name="Запустить: browser-power").first
    expect(start).to_have_attribute("aria-disabled", "true")
    start.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("browser-power")

    every = row.get_by_role("button", name="Все действия")
    every.click()
    menu = page.locator("#menu")
    expect(menu.locator(".menu-why").first).to_be_visible()
    every.click()
    expect(menu).to_be_hidden()
    every.press("Enter")
    expect(menu.get_by_role("button", name="Запустить")).to_be_focused()
    page.keyboard.press("Escape")
    expect(every).to_be_focused()
    every.click()
    menu.get_by_role("button", name="Приостановить").click()
    expect(row.locator(".rows-state")).to_contain_text("приостановлена")
    row.get_by_role("button", name="Все действия").click()
    menu.get_by_role("button", name="Продолжить").click()
    expect(row.locator(".rows-state")).to_contain_text("работает")


def test_stopping_by_force_is_asked_first(visit: Open, vm: dict[str, str]) -> None:
    one = visit().sign_in()
    page = one.go(f"/vms/{vm['id']}/")
    page.get_by_role("link", name="Остановить принудительно").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("пропадёт")
    dialog.get_by_role("button", name="Остановить принудительно").click()
    expect(page.locator("#job .strip-state")).to_contain_text("успешно")
    one.go(f"/vms/{vm['id']}/")
    expect(page.locator(".strip-state")).to_contain_text("выключена")
    page.get_by_role("button", name="Запустить: browser-power").click()
    expect(page.locator(".strip-state")).to_contain_text("работает")


def test_the_demo_operation_waits_for_a_click_and_can_be_cancelled(visit: Open) -> None:
    one = visit().sign_in()
    for press, ends in (("Дальше", "успешно"), ("Отменить", "отменено")):
        page = one.go("/demo/")
        page.locator("#demo form").get_by_role("button", disabled=False).first.click()
        page.locator("#toasts").get_by_role("link").click()
        expect(page.get_by_role("button", name="Дальше")).to_be_visible()
        page.get_by_role("button", name=press).click()
        expect(page.locator("#job .strip-state")).to_contain_text(ends)


def test_everything_needed_works_without_javascript(visit: Open, vm: dict[str, str]) -> None:
    one = visit(java_script_enabled=False)
    page = one.sign_in().page
    page.locator(f"#vm-{vm['id']}").get_by_role("link", name="browser-power").click()
    page.get_by_role("button", name="Приостановить").click()
    expect(page).to_have_url(re.compile("/jobs/"))
    one.site.api.follow(page.url.rstrip("/").rpartition("/")[2])
    one.site.api.do(f"vms/{vm['id']}/resume/")
